"""The fast step against its plain twin, part by part and whole: same codes, gradients, weights and counters."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fast_and_plain import (
    ALL,
    PRODUCTS,
    SELECTING,
    assert_equal,
    assert_same_step,
    assert_used,
    moments,
    noise,
    sparse_sae,
    trainer,
    twins,
)
from sources import TensorSource, sparse_data
from torch import Tensor

from sae_core.foundation.errors import UserError
from sae_core.foundation.settings.run_settings import Architecture, RunSettings, SAESettings, TrainingSettings
from sae_core.sae import SAE, BatchTopKSAE, JumpReLUSAE, TopKSAE, make_sae
from sae_core.training import kernels
from sae_core.training.kernels import auxiliary
from sae_core.training.kernels.cpu import encoding, screen, select_loops, team, update_loops
from sae_core.training.kernels.cpu.screen import Screen
from sae_core.training.kernels.cpu.step import FastStep
from sae_core.training.kernels.cpu.update_loops import Rows
from sae_core.training.kernels.workspace import Workspace, shared_workspace
from sae_core.training.members import make_trainer
from sae_core.training.stage import Plan
from sae_core.training.step import Trainer


@PRODUCTS
@pytest.mark.parametrize("architecture", ALL)
def test_one_step_is_the_plain_one(architecture: Architecture, low_precision: bool) -> None:
    plain, fast = twins(architecture, low_precision=low_precision)
    x_BD = noise(60, 40, seed=9)
    assert_same_step(plain, fast, x_BD)
    assert fast.compiled is not None
    assert_used(fast)


@pytest.mark.parametrize("architecture", ALL)
@pytest.mark.parametrize("dead", [1, 7, 200], ids=["one dead", "few dead", "all dead"])
def test_help_for_dead_features_is_the_plain_one(architecture: Architecture, dead: int) -> None:
    plain, fast = twins(architecture)
    dead_M = torch.randperm(200, generator=torch.Generator().manual_seed(3))[:dead].sort().values
    before = fast.sae.W_enc.detach().clone()
    assert_same_step(plain, fast, noise(60, 40, seed=9), dead_M)
    assert_used(fast)
    moved_N = (fast.sae.W_enc.detach() - before).abs().sum(dim=0)
    assert bool((moved_N[dead_M] > 0).any())  # the help reaches the encoder


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for architecture in ALL:
        states = []
        for entries in (2**23, 200 * 7):  # 60 activations: one chunk, and eight chunks of 7 and one of 4
            monkeypatch.setattr(screen, "CHUNK_ENTRIES", entries)
            fast = trainer(sparse_sae(architecture), fast=True, low_precision=True)
            for seed in range(3):
                fast.step(noise(60, 40, seed=seed))
            assert_used(fast)
            states.append(fast.state())
        assert_equal(*states)


def test_auxk_in_chunks_is_auxk_in_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auxiliary, "CHUNK_ENTRIES", 7 * 30)
    for architecture in ALL:
        assert_same_step(*twins(architecture), noise(60, 40, seed=9), torch.arange(50, 80))


@pytest.mark.parametrize("architecture", ALL)
@pytest.mark.parametrize(
    ("rows", "shape"),
    [
        (1, {}),
        (3, {"d_in": 7, "width": 21, "k": 1}),
        (33, {"d_in": 1, "width": 30, "k": 2}),
        (20, {"d_in": 129, "width": 67, "k": 5}),
        (50, {"d_in": 16, "width": 24, "k": 24}),
        (50, {"d_in": 16, "width": 40, "k": 20}),
    ],
    ids=["one activation", "odd sizes", "one dimension", "few features", "k is the width", "k is half the width"],
)
def test_odd_shapes(architecture: Architecture, rows: int, shape: dict[str, int], monkeypatch: Any) -> None:
    monkeypatch.setattr(encoding, "DENSEST", 1.0)
    plain, fast = twins(architecture, low_precision=True, **shape)
    assert_same_step(plain, fast, noise(rows, plain.sae.d_in, seed=4))
    assert_used(fast)


@pytest.mark.parametrize("architecture", ALL)
def test_codes_without_or_with_few_positive_entries(architecture: Architecture) -> None:
    for bias in (-100.0, -3.0):
        plain, fast = twins(architecture)
        for member in (plain, fast):
            with torch.no_grad():
                member.sae.b_enc.fill_(bias)
                member.sae.W_enc[:, 5] = 0.0
                member.sae.b_enc[5] = 0.0  # exactly 0 is not positive
        assert_same_step(plain, fast, noise(40, 40, seed=2))
        assert_used(fast)


@pytest.mark.parametrize("architecture", SELECTING)
def test_ties_are_broken_to_k_entries(architecture: Architecture) -> None:
    sae = sparse_sae(architecture, width=24, k=3)
    with torch.no_grad():
        sae.W_enc.copy_(sae.W_enc[:, :1].expand(-1, 24))
        sae.b_enc.fill_(0.0)
    x_BD = noise(30, 40)
    positive = int(((x_BD - sae.b_dec) @ sae.W_enc > 0)[:, 0].sum())
    outcome = trainer(sae, fast=True).step(x_BD)
    assert int(outcome.active) == (3 * positive if architecture == "topk" else min(90, 24 * positive))


def keys_and_screen(sae: SAE, x_BD: Tensor, *, low_precision: bool) -> tuple[Tensor, Screen]:
    workspace = Workspace()
    centred_BD = x_BD - sae.b_dec.detach()
    screened = Screen(centred_BD, sae.W_enc.detach().T, sae.b_enc.detach(), workspace, low_precision=low_precision)
    chunks = [torch.from_numpy(keys_CN.copy()).view(torch.bfloat16) for _, keys_CN in screened.chunks()]
    return torch.cat(chunks), screened


@PRODUCTS
@pytest.mark.parametrize(
    ("rows", "d_in", "scale"), [(300, 40, 1.0), (300, 40, 1e-3), (300, 40, 1e3), (1, 600, 1.0), (64, 600, 1.0)]
)
def test_the_bound_on_the_products_error_holds_and_is_not_idle(
    low_precision: bool, rows: int, d_in: int, scale: float
) -> None:
    sae, x_BD = sparse_sae("topk", d_in=d_in, width=500), noise(rows, d_in) * scale
    x_BD[0] *= 50  # one activation far larger than the others
    keys_BN, screened = keys_and_screen(sae, x_BD, low_precision=low_precision)
    exact_BN = (x_BD - sae.b_dec).detach().double() @ sae.W_enc.detach().double() + sae.b_enc.detach().double()
    rounding_BN = keys_BN.double().abs() / 256
    off_B = ((keys_BN.double() - exact_BN).abs() - rounding_BN).amax(dim=1)
    slacks_B = torch.from_numpy(screened.slacks_B).double()
    assert bool((off_B <= slacks_B).all())
    if low_precision:
        # Errors add up as random ones do, the bound as if all were parallel: it is looser by about √D.
        assert float((off_B / slacks_B).max()) > 0.5 / d_in**0.5
    else:
        assert float(slacks_B.max() / exact_BN.abs().max()) < 1e-4


@PRODUCTS
@pytest.mark.parametrize("architecture", SELECTING)
def test_chosen_features_are_the_largest(architecture: Architecture, low_precision: bool) -> None:
    """On many activations, against float64: all the same but for those whose last two are closer than float32."""
    sae, x_BD = sparse_sae(architecture, d_in=64, width=1000, k=20), noise(20_000, 64)
    centred_BD = x_BD - sae.b_dec.detach()
    workspace = Workspace()
    screened = Screen(centred_BD, sae.W_enc.detach().T, sae.b_enc.detach(), workspace, low_precision=low_precision)
    with torch.no_grad():
        code = encoding.encode(sae, screened, workspace)
    assert code is not None
    exact_BN = centred_BD.double() @ sae.W_enc.detach().double() + sae.b_enc.detach().double()
    places = exact_BN.topk(20, dim=1).indices if architecture == "topk" else exact_BN.flatten().topk(400_000).indices
    expected_BN = torch.zeros_like(exact_BN, dtype=torch.bool)
    if architecture == "topk":
        expected_BN.scatter_(1, places, True)
    else:
        expected_BN.view(-1)[places] = True
    chosen_BN = torch.zeros_like(expected_BN)
    for row, (start, stop) in enumerate(zip(code.starts_B, code.stops_B, strict=True)):
        features = torch.from_numpy(code.features_E[start:stop]).long()
        chosen_BN[row, features] = True
        torch.testing.assert_close(
            torch.from_numpy(code.values_E[start:stop]).double(), exact_BN[row, features], rtol=1e-5, atol=1e-5
        )
    assert float((chosen_BN == expected_BN).all(dim=1).double().mean()) >= 0.9999


@pytest.mark.parametrize("architecture", ALL)
def test_the_products_arithmetic_changes_no_bit(architecture: Architecture) -> None:
    states = []
    for low_precision in (False, True):
        fast = trainer(sparse_sae(architecture), fast=True, low_precision=low_precision)
        for seed in range(4):
            fast.step(noise(100, 40, seed=seed))
        assert_used(fast)
        states.append(fast.state())
    assert_equal(*states)


def test_neither_does_the_number_of_threads() -> None:
    states, threads = [], torch.get_num_threads()
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            fast = trainer(sparse_sae("topk"), fast=True)
            for seed in range(3):
                fast.step(noise(100, 40, seed=seed))
            states.append(fast.state())
    finally:
        torch.set_num_threads(threads)
    for state in states[1:]:
        for name, tensor in state.items():  # products with W_enc may sum in another order
            torch.testing.assert_close(tensor, states[0][name], rtol=1e-5, atol=1e-6)


def test_clipping_is_the_plain_one() -> None:
    """Below, between and above the norm and the bound on it that spares computing it."""
    x_BD = noise(60, 40, seed=9)
    free = trainer(sparse_sae("topk"), fast=False, clip=1e9)
    gradients = free.step(x_BD).gradients
    norm = float(torch.stack([gradient.norm() for gradient in gradients.values()]).norm())
    for clip in (0.3 * norm, 1.05 * norm, 100 * norm):
        members = [trainer(sparse_sae("topk"), fast=fast, clip=clip) for fast in (False, True)]
        assert_same_step(*members, x_BD)
        clipped = moments(members[1], "exp_avg")["adam.exp_avg.W_dec"].norm()
        unclipped = moments(free, "exp_avg")["adam.exp_avg.W_dec"].norm()
        assert float(clipped / unclipped) == pytest.approx(min(1.0, clip / norm), rel=1e-4)


def test_bound_on_the_norm_is_never_below_it() -> None:
    generator = np.random.default_rng(0)
    pointers_P = np.concatenate([[0], np.sort(generator.integers(0, 60, 19)), [60, 60]])
    tokens_E, values_E, slopes_E = generator.integers(0, 9, 60).astype(np.int32), *generator.random((2, 60), np.float32)
    x_BD, grad_BD = generator.standard_normal((2, 9, 5)).astype(np.float32)
    atoms_ND = torch.nn.functional.normalize(noise(20, 5), dim=1).numpy()
    ranks_N, aux_MD = np.full(20, -1, np.int32), generator.standard_normal((2, 2, 5)).astype(np.float32)
    ranks_N[[4, 11]] = 0, 1
    entries = (pointers_P, tokens_E, values_E, slopes_E - np.float32(0.5))
    squares_N, rows = np.empty(20), Rows(*entries, x_BD, grad_BD, ranks_N, *aux_MD, atoms_ND)
    team.run(update_loops.square_gradients, rows, squares_N)
    norms = (np.linalg.norm(table, axis=1) for table in (x_BD, grad_BD))
    aux_norms = (np.linalg.norm(table, axis=1) for table in aux_MD)
    bound = update_loops.bound_square(rows, *norms, *aux_norms)
    assert squares_N.sum() <= bound <= 10 * squares_N.sum()


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.0, 0.99)])
def test_adam_is_torchs(betas: tuple[float, float]) -> None:
    """Ten steps, on rows with and without gradient; the clipping factor scales the gradient."""
    rows, columns, factor = 12, 37, np.float32(0.5)
    parameter = torch.nn.Parameter(noise(rows * columns))
    optimizer = torch.optim.Adam([parameter], lr=1e-3, betas=betas, eps=6.25e-10, fused=True)
    weights, mean, square = parameter.detach().clone(), torch.zeros(rows * columns), torch.zeros(rows * columns)
    for step in range(1, 11):
        gradient = noise(rows, columns, seed=step) * 10.0 ** -(step % 5)
        gradient[step % 3 :: 3] = 0.0
        parameter.grad = gradient.flatten() * float(factor)
        optimizer.step()
        numbers = (factor, 1e-3 / (1 - betas[0] ** step), betas[0], 1 - betas[0], betas[1], 1 - betas[1])
        adam_8 = tuple(np.float32(number) for number in (*numbers, (1 - betas[1] ** step) ** 0.5, 6.25e-10))
        tables = (gradient.flatten(), weights, mean, square)
        update_loops.update_vector(*(table.numpy() for table in tables), adam_8)
    state = optimizer.state[parameter]
    torch.testing.assert_close(weights, parameter.detach(), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(mean, state["exp_avg"], rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(square, state["exp_avg_sq"], rtol=1e-5, atol=1e-12)


def test_rounding_is_torchs() -> None:
    table_RD = torch.cat([noise(50, 33), noise(50, 33) * 1e-30, torch.zeros(1, 33), torch.full((1, 33), 65535.0)])
    rounded_RK = torch.zeros(len(table_RD), 40, dtype=torch.bfloat16)
    norms_R, slips_R = np.empty(len(table_RD), np.float32), np.empty(len(table_RD), np.float32)
    bits_RK = rounded_RK.view(torch.uint16).numpy()
    team.run(select_loops.round_rows, table_RD.numpy(), bits_RK, norms_R, slips_R)
    assert torch.equal(rounded_RK[:, :33], table_RD.bfloat16())
    torch.testing.assert_close(torch.from_numpy(norms_R[:50]), table_RD[:50].norm(dim=1))
    lost_R = (table_RD - table_RD.bfloat16().float()).norm(dim=1)
    torch.testing.assert_close(torch.from_numpy(slips_R[:50]), lost_R[:50])


def train(sae: SAE, steps: int, *, fast: bool, data_RD: Tensor) -> tuple[Trainer, list[float]]:
    settings = SAESettings(architecture=sae.architecture, width=sae.width, k=getattr(sae, "k", 1), sparsity=0.1)
    compiled, training = FastStep if fast else None, TrainingSettings(learning_rate=2e-3)
    member = Trainer(sae, settings, training, steps=steps, low_precision=fast, compiled=compiled)
    source = TensorSource(data_RD)
    batches = source.batches(batch_size=256, seed=0)
    return member, [float(member.step(next(batches) * source.scale).loss) for _ in range(steps)]


@pytest.mark.parametrize("architecture", ALL)
def test_training_goes_as_the_plain_one(architecture: Architecture) -> None:
    """The loss after 100 steps is the same to 1e-3 of itself, and features die and live alike.

    Rounding picks another feature here or there, from where on two trainings differ in detail.
    """
    data_RD = sparse_data(4096, d_in=32, features=96)
    results = []
    for fast in (False, True):
        sae = make_sae(SAESettings(architecture=architecture, width=128, k=4), 32, seed=1)
        results.append(train(sae, 100, fast=fast, data_RD=data_RD))
    (plain, plain_losses), (fast, fast_losses) = results
    assert fast_losses[:3] == pytest.approx(plain_losses[:3], rel=1e-4)
    assert np.mean(fast_losses[-10:]) == pytest.approx(np.mean(plain_losses[-10:]), rel=2e-3)
    assert plain_losses[-1] < 0.5 * plain_losses[0]
    same = ((plain.idle_N > 2000) == (fast.idle_N > 2000)).float().mean()
    assert float(same) > 0.95
    if isinstance(plain.sae, BatchTopKSAE) and isinstance(fast.sae, BatchTopKSAE):
        assert float(fast.sae.threshold) == pytest.approx(float(plain.sae.threshold), rel=1e-2)


@pytest.mark.parametrize("architecture", ALL)
def test_resuming_is_bit_identical(architecture: Architecture) -> None:
    batches = [noise(64, 40, seed=seed) for seed in range(40)]
    through = trainer(sparse_sae(architecture), fast=True, low_precision=True)
    half = trainer(sparse_sae(architecture), fast=True, low_precision=True)
    for member in (through, half):
        member.idle_N[:20] = member.settings.dead_after_tokens
    for x_BD in batches:
        through.step(x_BD)
    for x_BD in batches[:25]:
        half.step(x_BD)
    state = {name: tensor.clone() for name, tensor in half.state().items()}
    resumed = trainer(sparse_sae(architecture, seed=8), fast=True, low_precision=True)
    resumed.load_state(state)
    for x_BD in batches[25:]:
        resumed.step(x_BD)
    assert_equal(resumed.state(), through.state())


def test_either_step_goes_on_with_the_others_state() -> None:
    batches = [noise(64, 40, seed=seed) for seed in range(4)]
    for first, second in ((True, False), (False, True)):
        begun = trainer(sparse_sae("topk"), fast=first)
        for x_BD in batches[:2]:
            begun.step(x_BD)
        members = [trainer(sparse_sae("topk"), fast=fast) for fast in (second, first)]
        for member in members:
            member.load_state({name: tensor.clone() for name, tensor in begun.state().items()})
        for x_BD in batches[2:]:
            for member in members:
                member.step(x_BD)
        for name, tensor in members[0].state().items():
            torch.testing.assert_close(tensor, members[1].state()[name], rtol=1e-3, atol=1e-4)


def test_codes_that_are_not_sparse_are_trained_plainly() -> None:
    plain, fast = twins("relu")
    for member in (plain, fast):
        with torch.no_grad():
            member.sae.b_enc.fill_(1.0)
    assert_same_step(plain, fast, noise(60, 40, seed=9))
    assert any(parameter.grad is not None for parameter in fast.sae.parameters())


def test_members_share_memory_and_do_not_disturb_each_other() -> None:
    alone = trainer(sparse_sae("topk", seed=1), fast=True)
    members = [trainer(sparse_sae("topk", seed=seed), fast=True) for seed in (1, 2)]
    wide = trainer(sparse_sae("batchtopk", d_in=24, width=321), fast=True)
    for seed in range(4):
        x_BD = noise(60 - 9 * seed, 40, seed=seed)
        expected = alone.step(x_BD).recon_BD.clone()
        outcomes = [member.step(x_BD) for member in members]
        wide.step(noise(70, 24, seed=seed))
        assert torch.equal(outcomes[0].recon_BD, expected)
        assert not torch.equal(outcomes[1].recon_BD, expected)
    assert_equal(members[0].state(), alone.state())
    for member in (members[0], wide):
        assert member.compiled is not None
        assert member.compiled.workspace is shared_workspace()


def test_no_more_memory_than_the_plain_step_keeps_and_none_of_it_grows() -> None:
    fast = trainer(sparse_sae("topk", d_in=64, width=4096, k=8), fast=True, low_precision=True)
    assert fast.compiled is not None
    fast.compiled.workspace = workspace = Workspace()
    fast.step(noise(4096, 64))
    size = workspace.size()
    assert size < 0.5 * 4096 * 4096 * 4  # half of one dense [B, N] table in float32
    for seed in range(3):
        fast.step(noise(4096, 64, seed=seed))
    assert workspace.size() == size


def test_loss_that_is_not_finite_shows() -> None:
    for architecture in ALL:
        fast = trainer(sparse_sae(architecture), fast=True, low_precision=True)
        x_BD = noise(20, 40)
        x_BD[4, 4] = torch.nan
        assert not bool(torch.isfinite(fast.step(x_BD).loss)), architecture


def test_buffers_grow_and_keep_what_is_used() -> None:
    workspace = Workspace()
    assert workspace.take("a", 2, 3).shape == (2, 3)
    workspace.take("a", 4).copy_(torch.arange(4.0))
    assert workspace.extend("a", 4, 50)[:4].tolist() == [0, 1, 2, 3]
    assert workspace.take("a", 4).dtype == torch.float32
    assert workspace.take("a", 4, dtype=torch.int32).dtype == torch.int32


def test_team_does_every_part_once_and_passes_exceptions_on(monkeypatch: pytest.MonkeyPatch) -> None:
    for entry in (team.openmp_entry(), None):
        monkeypatch.setattr(team, "openmp_entry", lambda entry=entry: entry)
        done, lock = [], threading.Lock()

        def work(part: int, parts: int, name: str, done: list[Any] = done, lock: Any = lock) -> None:
            with lock:
                done.append((part, parts, name))

        team.run(work, "x")
        assert sorted(done) == [(part, team.count_parts(), "x") for part in range(team.count_parts())]

        def fail(part: int, parts: int) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            team.run(fail)
        team.run(work, "y")
        assert len(done) == 2 * team.count_parts()


@pytest.mark.parametrize("entry", [True, False], ids=["torch's threads", "Python's threads"])
def test_either_kind_of_threads_gives_the_same(entry: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not entry:
        monkeypatch.setattr(team, "openmp_entry", lambda: None)
    assert_same_step(*twins("topk"), noise(60, 40, seed=9))


def plan_on(device: str) -> Plan:
    return Plan("single", 10, 8, 1, 0, torch.device(device))


def test_settings_choose_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    def made(**training: Any) -> Trainer:
        settings = RunSettings.model_validate({"training": training, "sae": {"width": 32, "k": 2}})
        return make_trainer(settings, torch.zeros(8), plan_on("cpu"), member=0, width=32)

    assert made().compiled is not None
    assert made(kernels="fast").compiled is not None
    assert made(kernels="plain").compiled is None
    assert made().low_precision == kernels.has_fast_bfloat16()
    assert not made(kernels="plain").low_precision
    assert not made(precision="float32").low_precision
    monkeypatch.setitem(sys.modules, "numba", None)
    assert made().compiled is None
    with pytest.raises(UserError, match=r"training.kernels is fast, but numba cannot be imported"):
        made(kernels="fast")


def test_kernels_are_refused_where_they_do_not_run() -> None:
    sae = make_sae(SAESettings(width=32, k=2), 8)
    with pytest.raises(UserError, match="not float32"):
        kernels.use_fast("fast", sae.double())
    assert not kernels.use_fast("auto", sae)
    with pytest.raises(UserError, match=r"training\.device is meta"):
        kernels.use_fast("fast", make_sae(SAESettings(width=32, k=2), 8).to("meta"))


@pytest.mark.slow
def test_compiling_needs_no_folder_that_may_be_written(tmp_path: Path) -> None:
    """Without a place for the cache the loops are compiled anew in every process."""
    code = """
import os, sys
os.environ["NUMBA_CACHE_DIR"] = "/dev/null/nowhere"
from sae_core.training.kernels.cpu.compiled import loop
assert loop("int64(int64)")(lambda number: number + 1)(1) == 2
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ})
    assert done.returncode == 0, done.stderr


def test_every_architecture_is_covered() -> None:
    kinds = {type(make_sae(SAESettings(architecture=architecture, width=8, k=2), 4)) for architecture in ALL}
    assert {TopKSAE, BatchTopKSAE, JumpReLUSAE} < kinds
    assert len(kinds) == len(ALL)
