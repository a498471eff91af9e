"""The fast step for GPUs against its plain twin, part by part and whole.

On a GPU its programs are compiled; elsewhere Triton's interpreter runs them, so slowly that everything here is small.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fast_and_plain import ALL, SELECTING, assert_equal, assert_same_step, assert_used, moments, noise, sparse_sae
from fast_and_plain import trainer as made_trainer
from host_reads import HostReads
from torch import Tensor

from sae_core.foundation.errors import UserError
from sae_core.foundation.settings.run_settings import Architecture
from sae_core.sae import SAE, BatchTopKSAE, Kernel
from sae_core.training import kernels
from sae_core.training.kernels.workspace import Workspace
from sae_core.training.step import Trainer

pytest.importorskip("triton", reason="needs triton, which comes with torch for CUDA")

from sae_core.training.kernels.gpu import dense as gpu_dense
from sae_core.training.kernels.gpu import encoding as gpu_encoding
from sae_core.training.kernels.gpu import select_programs, update_programs
from sae_core.training.kernels.gpu.encoding import GpuCode, Inputs
from sae_core.training.kernels.gpu.step import GpuStep

DEVICE = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
SMALL: dict[str, int] = {"d_in": 6, "width": 13, "k": 2}
needs_gpu = pytest.mark.skipif(DEVICE.type == "cpu", reason="needs a CUDA device")


def member(architecture: Architecture, *, low_precision: bool = False, seed: int = 0, **options: Any) -> Trainer:
    """A trainer on the device that takes the step for GPUs."""
    shape = {name: options.pop(name, default) for name, default in SMALL.items()}
    sae = sparse_sae(architecture, seed=seed, **shape).to(DEVICE)
    return made_trainer(sae, fast=GpuStep, low_precision=low_precision, **options)


def plain_member(architecture: Architecture, **options: Any) -> Trainer:
    """Its plain twin."""
    made = member(architecture, **options)
    made.compiled = None
    return made


def twins(architecture: Architecture, **options: Any) -> tuple[Trainer, Trainer]:
    return plain_member(architecture, **options), member(architecture, **options)


def batch(rows: int = 5, *, d_in: int = 6, seed: int = 9) -> Tensor:
    return noise(rows, d_in, seed=seed).to(DEVICE)


@pytest.mark.parametrize("dead", [0, 1, 13], ids=["none dead", "one dead", "all dead"])
@pytest.mark.parametrize("architecture", ALL)
def test_one_step_is_the_plain_one(architecture: Architecture, dead: int) -> None:
    plain, fast = twins(architecture)
    dead_M = torch.randperm(13, generator=torch.Generator().manual_seed(3))[:dead].sort().values.to(DEVICE)
    before = fast.sae.W_enc.detach().clone()
    assert_same_step(plain, fast, batch(), dead_M)
    assert_used(fast)
    assert dead < 13 or bool((fast.sae.W_enc.detach() - before).abs().sum() > 0)  # the help reaches the encoder


@pytest.mark.parametrize(
    ("rows", "shape"),
    [
        (1, {"d_in": 7, "width": 21, "k": 1}),
        (3, {"d_in": 33, "width": 16, "k": 16}),
        (5, {"d_in": 1, "width": 10, "k": 2}),
    ],
    ids=["one activation, k is 1", "k is the width", "one dimension"],
)
@pytest.mark.parametrize("architecture", ALL)
def test_odd_shapes(architecture: Architecture, rows: int, shape: dict[str, int]) -> None:
    plain, fast = twins(architecture, **shape)
    assert_same_step(plain, fast, batch(rows, d_in=shape["d_in"], seed=4))
    assert_used(fast)


@pytest.mark.parametrize("architecture", ALL)
def test_chunks_and_tiles_change_nothing(architecture: Architecture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three chunks of activations; rows in two tiles of features, sums of eight numbers at a time."""
    monkeypatch.setattr(gpu_encoding, "CHUNK_ENTRIES", 13 * 2)
    monkeypatch.setattr(gpu_dense, "CHUNK_ENTRIES", 13 * 2)
    monkeypatch.setattr(gpu_encoding, "COUNTED", 16)
    monkeypatch.setattr(gpu_encoding, "SCANNED", 16)
    monkeypatch.setattr("sae_core.training.kernels.gpu.step.TILE", 8)
    assert_same_step(*twins(architecture, width=19), batch())


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ALL)
def test_codes_without_or_with_few_positive_entries(architecture: Architecture) -> None:
    for bias in (-100.0, -2.0):
        pair = twins(architecture)
        for each in pair:
            with torch.no_grad():
                each.sae.b_enc.fill_(bias)
                each.sae.W_enc[:, 5] = 0.0
                each.sae.b_enc[5] = 0.0  # exactly 0 is not positive
        assert_same_step(*pair, batch(5))


@pytest.mark.parametrize("architecture", SELECTING)
def test_ties_are_broken_to_k_entries(architecture: Architecture) -> None:
    fast, x_BD = member(architecture), batch()
    sae = fast.sae
    with torch.no_grad():
        sae.W_enc.copy_(sae.W_enc[:, :1].expand(-1, 13))
        sae.b_enc.zero_()
        sae.b_dec.zero_()
        positive = int((x_BD @ sae.W_enc > 0)[:, 0].sum())
    assert 0 < positive < 5
    assert int(fast.step(x_BD).active) == (2 * positive if architecture == "topk" else min(10, 13 * positive))


def test_clipping_is_the_plain_one() -> None:
    free = plain_member("topk", clip=1e9)
    gradients = free.step(batch()).gradients
    norm = float(torch.stack([gradient.norm() for gradient in gradients.values()]).norm())
    for clip in (0.3 * norm, 100 * norm):
        pair = twins("topk", clip=clip)
        assert_same_step(*pair, batch())
        clipped = moments(pair[1], "exp_avg")["adam.exp_avg.W_dec"].norm()
        unclipped = moments(free, "exp_avg")["adam.exp_avg.W_dec"].norm()
        assert float(clipped / unclipped) == pytest.approx(min(1.0, clip / norm), rel=1e-4)


def assert_near(state: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    """Equal to 1e-4 of the largest; Adam divides small gradients' rounding by their size."""
    assert state.keys() == other.keys()
    for name, tensor in state.items():
        scale = max(1e-12, float(other[name].abs().max()))
        torch.testing.assert_close(tensor, other[name], rtol=0, atol=1e-4 * scale, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ALL)
def test_steps_in_a_row_and_each_others_checkpoints(architecture: Architecture) -> None:
    """Two steps of either, then two of both from the state of the other; one feature is dead."""
    batches = [batch(seed=seed) for seed in range(4)]
    pair = twins(architecture)
    for each in pair:
        each.idle_N[4] = each.settings.dead_after_tokens
        for x_BD in batches[:2]:
            each.step(x_BD)
    states = [{name: tensor.clone() for name, tensor in each.state().items()} for each in pair]
    assert_near(states[1], states[0])
    for each, state in zip(pair, reversed(states), strict=True):
        each.load_state(state)
        for x_BD in batches[2:]:
            each.step(x_BD)
    assert_near(pair[1].state(), pair[0].state())


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ALL)
def test_the_same_seed_gives_the_same_bits_whoever_shares_the_memory(architecture: Architecture) -> None:
    first, other, second = (member(architecture, low_precision=True, seed=seed) for seed in (0, 1, 0))
    for seed in range(2):
        for each in (first, other, second):
            each.step(batch(4 - 2 * seed, seed=seed))
    assert_equal(first.state(), second.state())
    assert not torch.equal(first.sae.W_dec, other.sae.W_dec)


def rounded_gradients(sae: SAE, x_BD: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Reconstruction and gradients of a TopK or BatchTopK SAE as `GpuStep` says that bfloat16 makes them, densely."""
    x_hat_BD, enc_DN, dec_ND = ((x_BD - sae.b_dec).bfloat16(), sae.W_enc.bfloat16(), sae.W_dec.bfloat16().float())
    pre_BN = torch.addmm(sae.b_enc.bfloat16(), x_hat_BD, enc_DN).float()
    # Of equal numbers the first are kept: a stable sort.
    flat_RN = pre_BN.reshape(1, -1) if isinstance(sae, BatchTopKSAE) else pre_BN
    kept = int(sae.k) * (len(x_BD) if isinstance(sae, BatchTopKSAE) else 1)  # type: ignore[arg-type]
    places_RK = flat_RN.argsort(dim=1, descending=True, stable=True)[:, :kept]
    coefs_BN = torch.zeros_like(flat_RN).scatter_(1, places_RK, flat_RN.gather(1, places_RK).relu()).view_as(pre_BN)
    recon_BD = coefs_BN @ dec_ND + sae.b_dec
    grad_BD = (recon_BD - x_BD) * (2.0 / x_BD.numel())
    slopes_BN = (grad_BD @ dec_ND.T) * (coefs_BN > 0)
    # Triton's interpreter cuts off what a GPU rounds.
    cut_BD = (grad_BD.view(torch.int32) >> 16 << 16).view(torch.float32)
    rounded_BD = cut_BD if DEVICE.type == "cpu" else grad_BD.bfloat16().float()
    grad_ND = coefs_BN.T @ rounded_BD
    b_enc_N = slopes_BN.sum(dim=0)
    return recon_BD, {
        "W_enc": (slopes_BN.T @ x_hat_BD.float()).T,
        "W_dec": grad_ND - (grad_ND * sae.W_dec).sum(dim=1, keepdim=True) * sae.W_dec,
        "b_enc": b_enc_N,
        "b_dec": rounded_BD.sum(dim=0) - sae.W_enc @ b_enc_N,
    }


@pytest.mark.parametrize("architecture", SELECTING)
def test_bfloat16_rounds_what_is_said_and_nothing_else(architecture: Architecture) -> None:
    fast = member(architecture, low_precision=True, clip=1e9)
    with torch.no_grad():
        recon_BD, expected = rounded_gradients(fast.sae, batch())
    outcome = fast.step(batch())
    torch.testing.assert_close(outcome.recon_BD, recon_BD, rtol=1e-5, atol=1e-5)
    for name, gradient in expected.items():
        ours = moments(fast, "exp_avg")[f"adam.exp_avg.{name}"] / (1 - fast.training.beta1)
        torch.testing.assert_close(ours, gradient, rtol=0, atol=1e-5 * float(gradient.abs().max()))


@pytest.mark.parametrize("architecture", ALL)
def test_bfloat16_is_near_float32(architecture: Architecture) -> None:
    """A gradient is off by no more than a hundredth of its norm."""
    plain, fast = plain_member(architecture), member(architecture, low_precision=True)
    expected, outcome = (each.step(batch()) for each in (plain, fast))
    assert float(outcome.loss) == pytest.approx(float(expected.loss), rel=1e-2)
    ours = moments(fast, "exp_avg")
    for name, moment in moments(plain, "exp_avg").items():
        assert float((ours[name] - moment).norm() / moment.norm()) < (0.3 if "threshold" in name else 0.02), name


def test_loss_that_is_not_finite_shows() -> None:
    for architecture in ALL:
        x_BD = batch(4)
        x_BD[2, 4] = torch.nan
        assert not bool(torch.isfinite(member(architecture, low_precision=True).step(x_BD).loss)), architecture


@pytest.mark.parametrize("architecture", ALL)
def test_a_step_reads_nothing_back(architecture: Architecture) -> None:
    fast = member(architecture)
    fast.idle_N[4] = fast.settings.dead_after_tokens
    fast.step(batch(3))
    with HostReads() as reads:
        fast.step(batch(3))
    assert reads.names == []


# Hand-made cases of each program


def chosen(pre: list[list[float]], k: int, dtype: torch.dtype) -> tuple[list[list[int]], list[list[float]], list[int]]:
    """Features, values and counts that `select_topk` gives for rows of preactivations."""
    pre_BN = torch.tensor(pre, dtype=dtype, device=DEVICE)
    keys_BN, options = gpu_encoding.keys_of(pre_BN)
    code = GpuCode.empty(len(pre), k, len(pre[0]), Workspace(DEVICE))
    code.features_E.fill_(-1)
    code.values_E.zero_()
    select_programs.select_topk[(len(pre),)](
        *(keys_BN, 0, *code.entries(), code.counts_B, len(pre[0]), k),
        **gpu_encoding.scan_options(keys_BN, options),
        **{"TOP": gpu_encoding.top_key(keys_BN), "GROUPS": 2, "PLACES": 8},
        **options,
    )
    assert code.rows_E.view(len(pre), k)[0, 0] == 0
    return code.features_E.view(len(pre), k).tolist(), code.values_E.view(len(pre), k).tolist(), code.counts_B.tolist()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_select_topk_by_hand(dtype: torch.dtype) -> None:
    rows = [[0.5, -1.0, 2.0, 2.0, 0.0, 2.0, 1.0], [-1.0, -2.0, -0.0, 0.0, -3.0, -1.0, 3.0]]
    assert chosen(rows, 2, dtype) == ([[2, 3], [6, 7]], [[2, 2], [3, 0]], [2, 1])
    assert chosen(rows, 4, dtype)[0] == [[2, 3, 5, 6], [6, 7, 7, 7]]
    assert chosen(rows, 6, dtype)[0] == [[0, 2, 3, 5, 6, 7], [6, 7, 7, 7, 7, 7]]
    large = [[torch.inf, 3e38, 1e-38, torch.inf, 1.0, 1.0, 1.0]]
    assert chosen(large, 3, dtype)[0] == [[0, 1, 3]]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_select_topk_takes_no_more_than_k_of_what_is_not_a_number(dtype: torch.dtype) -> None:
    """Whatever its bits are: those of the processor's NaN, or all ones as a GPU's."""
    integers = torch.int16 if dtype == torch.bfloat16 else torch.int32
    for bits in (torch.tensor(torch.nan, dtype=dtype).view(integers), torch.tensor(torch.iinfo(integers).max)):
        nan = bits.to(integers).view(dtype)
        features, values, counts = chosen([[nan] * 6, [1.0, *[nan] * 2, 2.0, 3.0, 4.0]], 3, dtype)  # type: ignore[list-item]
        assert features == [[0, 1, 2], [1, 2, 5]]
        assert counts == [3, 3]
        assert all(map(math.isnan, values[0]))
        assert values[1][2] == 4.0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_nth_largest_of_a_batch_by_hand(dtype: torch.dtype) -> None:
    pre_BN = torch.tensor([[0.5, -1.0, 2.0, 300.0], [2.0, 2.0, -2.0, 1e-20]], dtype=dtype, device=DEVICE)
    keys_BN, options = gpu_encoding.keys_of(pre_BN)
    for wanted, number, place in ((1, 300.0, 1), (2, 2.0, 1), (4, 2.0, 3), (5, 0.5, 1), (6, 1e-20, 1), (7, 0.0, None)):
        bound_1, place_1 = gpu_encoding.nth_largest(keys_BN, wanted, options)
        assert int(bound_1) == int(torch.tensor(number, dtype=dtype).view(keys_BN.dtype)), wanted
        assert place is None or int(place_1) == place


def test_reconstruct_and_sum_gradients_by_hand() -> None:
    """Two activations, three atoms along axes; the second activation has one entry, the third atom none."""
    atoms_ND = torch.eye(3, device=DEVICE)
    x_BD = torch.tensor([[1.0, 2.0, 3.0], [0.0, 1.0, 0.0]], device=DEVICE)
    b_dec_D = torch.tensor([0.0, 0.0, 1.0], device=DEVICE)
    starts_B, counts_B, features_E = (
        torch.tensor(numbers, dtype=torch.int32, device=DEVICE) for numbers in ([0, 2], [2, 1], [0, 1, 1, 3])
    )
    values_E = torch.tensor([2.0, 5.0, 1.5, torch.nan], device=DEVICE)
    recon_BD, grad_BD, slopes_E, errors_B = (
        torch.full(shape, 9.0, device=DEVICE) for shape in ((2, 3), (2, 3), (4,), (2,))
    )
    update_programs.reconstruct[(2,)](
        *(starts_B, counts_B, features_E, values_E, atoms_ND, b_dec_D, x_BD, recon_BD, grad_BD, slopes_E, errors_B),
        *(3, 0.5),
        ROWS=2,
        COLUMNS=4,
    )
    assert recon_BD.tolist() == [[2.0, 5.0, 1.0], [0.0, 1.5, 1.0]]
    assert grad_BD.tolist() == [[0.5, 1.5, -1.0], [0.0, 0.25, 0.5]]
    assert slopes_E.tolist() == [0.5, 1.5, 0.25, 9.0]
    assert errors_B.tolist() == [14.0, 1.25]

    pointers_P, tokens_E = (
        torch.tensor(numbers, dtype=torch.int32, device=DEVICE) for numbers in ([0, 1, 3, 3], [0, 0, 1])
    )
    ranks_N = torch.tensor([-1, -1, 0], dtype=torch.int32, device=DEVICE)
    aux_MD = torch.tensor([[1.0, 0.0, 7.0]], device=DEVICE)
    grad_b_enc_N, squares_N, enc_ND, dec_ND = (torch.full(s, 9.0, device=DEVICE) for s in ((3,), (3,), (3, 3), (3, 3)))
    update_programs.sum_gradients[(3,)](
        *(pointers_P, tokens_E, values_E[:3], slopes_E[:3], x_BD, grad_BD, grad_b_enc_N, enc_ND, dec_ND),
        *(atoms_ND, ranks_N, aux_MD, aux_MD, squares_N, 3),
        ROWS=2,
        COLUMNS=4,
    )
    assert enc_ND.tolist() == [[0.5, 1.0, 1.5], [1.5, 3.25, 4.5], [1.0, 0.0, 7.0]]
    assert dec_ND.tolist() == [[0.0, 3.0, -2.0], [2.5, 0.0, -4.25], [1.0, 0.0, 0.0]]
    assert grad_b_enc_N.tolist() == [0.5, 1.75, 0.0]
    assert squares_N.tolist() == [16.5, 57.375, 51.0]


@pytest.mark.parametrize("unit", [False, True])
def test_adam_is_torchs(unit: bool) -> None:
    """Rows that fill no power of two, and a last row that is short; NaN around them is not touched."""
    parameter = torch.nn.Parameter(noise(17).to(DEVICE))
    optimizer = torch.optim.Adam([parameter], lr=0.01, betas=(0.9, 0.99), eps=1e-9)
    tables = [torch.full((24,), torch.nan, device=DEVICE) for _ in range(4)]
    gradient, weights, mean, square = tables
    weights[:17], mean[:17], square[:17] = parameter.detach(), 0.0, 0.0
    for step in range(1, 4):
        gradient[:17] = noise(17, seed=step).to(DEVICE)
        parameter.grad = gradient[:17] * 0.5
        optimizer.step()
        numbers_3 = torch.tensor([0.5, 0.01 / (1 - 0.9**step), (1 - 0.99**step) ** 0.5], device=DEVICE)
        update_programs.update_rows[(3,)](
            *(*tables, numbers_3, 7, 17, 0.9, 0.1, 0.99, 0.01, 1e-9), UNIT=unit and step == 3, COLUMNS=8
        )
    expected_D = parameter.detach().clone()
    if unit:
        for row_D in expected_D.split(7):
            row_D /= row_D.norm()
    torch.testing.assert_close(weights[:17], expected_D, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(square[:17], optimizer.state[parameter]["exp_avg_sq"], rtol=1e-5, atol=1e-9)
    assert all(bool(table[17:].isnan().all()) for table in tables)


def test_chunks_of_products_are_whole_tiles_and_cover_the_batch() -> None:
    inputs = Inputs(torch.randn(700, 4), torch.randn(10, 4), torch.randn(10, 4), torch.randn(10))
    workspace = Workspace()
    firsts, pieces = zip(*((first, pre_CN.clone()) for first, pre_CN in inputs.products(3000, workspace)), strict=True)
    assert firsts == (0, 256, 512)
    torch.testing.assert_close(torch.cat(pieces), inputs.x_BD @ inputs.W_enc_ND.T + inputs.b_enc_N)
    assert workspace.size() == 256 * 10 * 4


def test_kernels_are_refused_where_they_do_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    b_dec = SimpleNamespace(device=torch.device("cuda", 0))
    sae: Any = SimpleNamespace(kernel=Kernel.TOP_OF_ROW, training=False, b_dec=b_dec, parameters=tuple)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert kernels.use_fast("auto", sae)
    with monkeypatch.context() as missing:
        missing.setitem(sys.modules, "triton", None)
        assert not kernels.use_fast("auto", sae)
        with pytest.raises(UserError, match=r"training\.kernels is fast, but triton cannot be imported"):
            kernels.use_fast("fast", sae)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "the card")
    with pytest.raises(UserError, match=r"the card is older than compute capability 8\.0"):
        kernels.use_fast("fast", sae)


def test_everything_else_runs_without_triton() -> None:
    code = """
import sys
sys.modules["triton"] = None
import sae_core.cli.program
from sae_core.training.kernels import use_fast
assert not any("programs" in name for name in sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["topk", "batchtopk", "relu"])
def test_programs_compile_for_gpus_and_keep_to_their_registers(architecture: str) -> None:
    """For cards of compute capability 8.0 and 9.0, at a size that is used: 768 dimensions, 16,128 features, k = 128."""
    command = [sys.executable, find_spec("compiled_programs").origin, architecture, "768", "16128", "128"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "TRITON_INTERPRET": "0"})
    assert done.returncode == 0, done.stderr
    programs = [json.loads(line) for line in done.stdout.splitlines()]
    assert {each["capability"] for each in programs} == {80, 90}
    assert len(programs) >= 6
    for each in programs:
        assert each["stack"] == 0, each
        assert each["program"] == "choose_digit" or "ld.global.v4.b32" in each["loads"], each


@needs_gpu
@pytest.mark.parametrize("low_precision", [False, True])
@pytest.mark.parametrize("architecture", ALL)
def test_a_step_on_a_gpu_does_not_wait_and_is_the_plain_one(architecture: Architecture, low_precision: bool) -> None:
    shape = {"d_in": 256, "width": 4096, "k": 32}
    plain = plain_member(architecture, **shape)
    fast = member(architecture, low_precision=low_precision, **shape)
    x_BD = batch(2048, d_in=256)
    if low_precision:
        outcomes = [each.step(x_BD) for each in (plain, fast)]
        assert float(outcomes[1].loss) == pytest.approx(float(outcomes[0].loss), rel=1e-2)
    else:
        assert_same_step(plain, fast, x_BD, torch.arange(100, 140, device=DEVICE))
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        fast.step(x_BD)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@needs_gpu
def test_memory_on_a_gpu_holds_no_dense_code_in_float32() -> None:
    made = [member("topk", low_precision=True, d_in=256, width=16384, k=32, seed=seed) for seed in range(2)]
    x_BD = batch(8192, d_in=256)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    for each in made:
        each.step(x_BD)
    parameters = sum(parameter.numel() * 4 for each in made for parameter in each.sae.parameters())
    assert torch.cuda.max_memory_allocated() - before - 2 * parameters < 8192 * 16384 * 4
