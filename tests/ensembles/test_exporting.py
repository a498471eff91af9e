"""Exported ensembles: one SAE where they are one, members with a loader of at most 20 lines else."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import call, refused
from torch import Tensor

from sae_core.ensembles.ensemble import Ensemble, load_ensemble
from sae_core.ensembles.exporting import LOADER, as_one, export_members, export_one, is_one, matching_thresholds
from sae_core.foundation.errors import UserError
from sae_core.foundation.folders import EnsembleFolder
from sae_core.foundation.run import Run
from sae_core.foundation.settings.run_settings import SAESettings
from sae_core.sae import SAE, make_sae
from sae_core.sae.formats.saelens import load_sae

D = 12


def acts() -> Tensor:
    return torch.randn(200, D, generator=torch.Generator().manual_seed(3))


def member(architecture: str, seed: int, *, width: int = 24) -> SAE:
    settings = {"architecture": architecture, "width": width, "k": 3, "initial_threshold": 0.3}
    sae = make_sae(SAESettings.model_validate(settings), D, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in (sae.b_dec, sae.b_enc):
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
        if sae.kernel is not None and hasattr(sae, "threshold") and sae.threshold.ndim == 0:
            sae.threshold.fill_(0.4)
    return sae.eval().requires_grad_(False)


def bag(kinds: Sequence[str], **options: Any) -> Ensemble:
    return Ensemble([member(kind, seed, width=24 + 8 * seed) for seed, kind in enumerate(kinds)], **options)


@pytest.mark.parametrize("kinds", [("relu", "relu"), ("jumprelu", "jumprelu"), ("batchtopk", "relu", "matryoshka")])
def test_a_bag_of_thresholds_is_one_sae(kinds: Sequence[str], tmp_path: Path) -> None:
    inner = bag(kinds, wiring="parallel", weights=[0.5, 0.2, 0.3][: len(kinds)])
    nested = Ensemble([inner, member("jumprelu", 9)], wiring="parallel", weights=[0.7, 0.3])
    for ensemble in (inner, nested):
        assert is_one(ensemble)
        folder = tmp_path / str(len(ensemble.widths)) / str(ensemble.width)
        export_one(as_one(ensemble), folder)
        one = load_sae(folder)
        torch.testing.assert_close(one.encode(acts()), ensemble.encode(acts()), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(one(acts()), ensemble(acts()), rtol=1e-5, atol=1e-5)
    assert as_one(bag(("relu", "relu"), wiring="parallel")).saelens == "standard"
    alone = bag(("topk",), wiring="parallel")
    assert is_one(alone)
    assert as_one(alone) is alone[0]


def test_what_is_not_one_sae_is_refused() -> None:
    assert not is_one(bag(("topk", "topk"), wiring="parallel"))
    assert not is_one(bag(("relu", "relu"), wiring="residual"))
    for ensemble, said in (
        (bag(("topk", "relu"), wiring="parallel"), "k would range over all"),
        (bag(("relu", "relu"), wiring="residual"), "stages read what others leave"),
        (bag(("relu", "groupmax"), wiring="parallel"), "GroupMaxSAE computes is known to no other tool"),
        (bag(("relu", "relu"), wiring="parallel", weights=[1.5, -0.5]), "has the weight -0.5"),
    ):
        with pytest.raises(UserError, match=said):
            as_one(ensemble)


def test_thresholds_keep_k_on_average() -> None:
    ensemble = bag(("topk", "relu", "topk"), wiring="parallel")
    levels = matching_thresholds(ensemble, acts())
    assert levels.keys() == {0, 2}
    one = as_one(ensemble, levels)
    fires_BM = one.encode(acts()) > 0
    first, second = fires_BM[:, :24], fires_BM[:, 24 + 32 :]
    assert float(first.sum(dim=1).float().mean()) == pytest.approx(3, abs=0.02)
    assert float(second.sum(dim=1).float().mean()) == pytest.approx(3, abs=0.02)
    # The plain way: the level below which all but 3 a token lie.
    pre = ensemble[0].pre_activations(acts()).flatten().sort(descending=True).values  # type: ignore[attr-defined]
    assert float(levels[0][0]) == pytest.approx(float(pre[600 - 1]))


@pytest.mark.parametrize(
    ("kinds", "wiring"),
    [(("topk", "relu", "jumprelu"), "residual"), (("topk", "topk"), "parallel"), (("batchtopk", "topk"), "residual")],
)
def test_the_loader_computes_the_same_with_torch_and_safetensors_alone(
    kinds: Sequence[str], wiring: Any, tmp_path: Path
) -> None:
    inner = bag(kinds, wiring=wiring, weights=[1.0, 0.5, 0.8][: len(kinds)])
    ensemble = Ensemble([inner, member("topk", 9)], wiring="parallel", weights=[0.7, 0.3])
    export_members(ensemble, tmp_path / "out")
    spec = importlib.util.spec_from_file_location("exported", tmp_path / "out" / LOADER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    coefs_BM, recon_BD = module.load(tmp_path / "out")(acts())
    torch.testing.assert_close(coefs_BM, ensemble.encode(acts()), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(recon_BD, ensemble(acts()), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(load_ensemble(EnsembleFolder(tmp_path / "out"))(acts()), ensemble(acts()))
    lines = [line for line in (tmp_path / "out" / LOADER).read_text().splitlines() if line.strip()]
    assert len(lines) <= 20
    assert not any("noqa" in line or "type:" in line for line in lines)
    with pytest.raises(UserError, match="is there already"):
        export_members(ensemble, tmp_path / "out")


@pytest.mark.slow
def test_the_loader_imports_nothing_of_ours(tmp_path: Path) -> None:
    export_members(bag(("topk", "topk"), wiring="parallel"), tmp_path / "out")
    code = "import load, sys, torch; print(load.load('.')(torch.ones(2, 12))[0].shape, 'sae_core' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "out", capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "torch.Size([2, 56]) False"


@pytest.mark.interop
@pytest.mark.parametrize("kinds", [("relu", "relu"), ("jumprelu", "batchtopk")])
def test_saelens_opens_the_one(kinds: Sequence[str], tmp_path: Path) -> None:
    sae_lens = pytest.importorskip("sae_lens", reason="sae-lens is not installed")
    ensemble = bag(kinds, wiring="parallel")
    export_one(as_one(ensemble), tmp_path / "one")
    theirs = sae_lens.SAE.load_from_disk(str(tmp_path / "one"))
    torch.testing.assert_close(theirs.encode(acts()), ensemble.encode(acts()), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(theirs(acts()), ensemble(acts()), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_the_command_says_what_it_wrote_and_what_thresholds_change(trained_run: Run, tmp_path: Path) -> None:
    done = call("export", trained_run.path, tmp_path / "members", "--ensemble", "boosted")
    assert "members in their order, with load.py" in done.err
    assert (tmp_path / "members" / LOADER).exists()
    done = call("export", trained_run.path, tmp_path / "one", "--one")
    assert "of the ensemble's active features are active in it" in done.err.replace("\n", " ")
    assert load_sae(tmp_path / "one").width == load_ensemble(trained_run.ensemble("bagged")).width
    refused(call("export", trained_run.path, tmp_path / "two", "--one", "--ensemble", "boosted"), "boosted ensemble")
    refused(call("export", trained_run.path, tmp_path / "two", "--ensemble", "none"), "no ensemble called none")
    refused(call("export", trained_run.path, tmp_path / "one"), "is there already")
    assert not (tmp_path / "two").exists()
