"""Members on disk: what SAELens 6 expects, what comes back, and SAELens itself where it is installed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sae_core.config import Architecture, SAESettings
from sae_core.errors import UserError
from sae_core.sae import ARCHITECTURES, SAE, BatchTopKSAE, make_sae
from sae_core.sae.saelens_format import load_sae, save_sae


def random_sae(architecture: Architecture) -> SAE:
    settings = SAESettings(architecture=architecture, width=24, k=3, initial_threshold=0.3, bandwidth=0.07)
    sae = make_sae(settings, 6, seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter += 0.1 * torch.rand(parameter.shape, generator=generator)
        sae.normalize_atoms()
        if isinstance(sae, BatchTopKSAE):
            sae.threshold.fill_(0.5)
    return sae.eval()


def activations() -> torch.Tensor:
    return torch.randn(40, 6, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("architecture", tuple(ARCHITECTURES))
def test_round_trip(architecture: Architecture, tmp_path: Path) -> None:
    sae = random_sae(architecture)
    save_sae(sae, tmp_path)
    again = load_sae(tmp_path)
    assert type(again) is type(sae)
    assert not again.training
    assert torch.equal(again.encode(activations()), sae.encode(activations()))
    assert torch.equal(again(activations()), sae(activations()))
    assert {name: getattr(again, name) for name in ("k", "bandwidth") if hasattr(again, name)} == {
        name: getattr(sae, name) for name in ("k", "bandwidth") if hasattr(sae, name)
    }


@pytest.mark.parametrize(
    ("architecture", "name", "extra"),
    [
        ("relu", "standard", set()),
        ("topk", "topk", set()),
        ("batchtopk", "jumprelu", {"threshold"}),
        ("jumprelu", "jumprelu", {"threshold"}),
    ],
)
def test_files_are_what_saelens_expects(architecture: Architecture, name: str, extra: set[str], tmp_path: Path) -> None:
    save_sae(random_sae(architecture), tmp_path)
    config = json.loads((tmp_path / "cfg.json").read_text())
    tensors = load_file(tmp_path / "sae_weights.safetensors")
    assert config["architecture"] == name
    assert (config["d_in"], config["d_sae"], config["dtype"]) == (6, 24, "float32")
    assert config["apply_b_dec_to_input"] is True
    assert (config["normalize_activations"], config["reshape_activations"]) == ("none", "none")
    assert int(config["metadata"]["sae_lens_version"].split(".")[0]) >= 6
    assert set(tensors) == {"W_enc", "b_enc", "W_dec", "b_dec"} | extra
    assert tensors["W_enc"].shape == (6, 24)
    assert tensors["W_dec"].shape == (24, 6)
    assert all(tensors[threshold].shape == (24,) for threshold in extra)
    assert ("k" in config) == (architecture == "topk")


def test_an_sae_that_does_not_subtract_b_dec_gives_the_same_code(tmp_path: Path) -> None:
    """SAELens SAEs with apply_b_dec_to_input = false, and without this project's metadata."""
    sae = random_sae("jumprelu")
    save_sae(sae, tmp_path)
    config = json.loads((tmp_path / "cfg.json").read_text())
    del config["metadata"]["sae_ensemble"]
    (tmp_path / "cfg.json").write_text(json.dumps(config | {"apply_b_dec_to_input": False}))
    tensors = load_file(tmp_path / "sae_weights.safetensors")
    again = load_sae(tmp_path)
    pre = activations() @ tensors["W_enc"] + tensors["b_enc"]
    expected = pre * (pre > tensors["threshold"])
    torch.testing.assert_close(again.encode(activations()), expected)
    torch.testing.assert_close(again(activations()), expected @ tensors["W_dec"] + tensors["b_dec"])


def test_bad_folders_end_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cfg\.json does not exist"):
        load_sae(tmp_path)
    save_sae(random_sae("topk"), tmp_path)
    good = json.loads((tmp_path / "cfg.json").read_text())
    for change, message in (
        ({"architecture": "gated", "metadata": {}}, "'gated'"),
        ({"d_sae": 25}, "does not hold an SAE"),
        ({"k": None}, "does not hold an SAE"),
        ({"metadata": None}, "does not hold an SAE"),
    ):
        (tmp_path / "cfg.json").write_text(json.dumps(good | change))
        with pytest.raises(UserError, match=message):
            load_sae(tmp_path)
    (tmp_path / "cfg.json").write_text("[1]")
    with pytest.raises(UserError, match="does not hold an SAE"):
        load_sae(tmp_path)
    (tmp_path / "cfg.json").write_text(json.dumps(good))
    tensors = load_file(tmp_path / "sae_weights.safetensors")
    del tensors["b_enc"]
    save_file(tensors, tmp_path / "sae_weights.safetensors")
    with pytest.raises(UserError, match="b_enc"):
        load_sae(tmp_path)


@pytest.mark.interop
@pytest.mark.parametrize("architecture", tuple(ARCHITECTURES))
def test_saelens_opens_a_member_as_it_is(architecture: Architecture, tmp_path: Path) -> None:
    sae_lens = pytest.importorskip("sae_lens", reason="sae-lens is not installed")
    sae = random_sae(architecture)
    save_sae(sae, tmp_path)
    theirs = sae_lens.SAE.load_from_disk(str(tmp_path))
    torch.testing.assert_close(theirs.encode(activations()), sae.encode(activations()), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(theirs(activations()), sae(activations()), rtol=1e-4, atol=1e-5)


@pytest.mark.interop
@pytest.mark.parametrize("architecture", ["relu", "topk", "jumprelu"])
def test_a_member_that_saelens_wrote_comes_back(architecture: Architecture, tmp_path: Path) -> None:
    sae_lens = pytest.importorskip("sae_lens", reason="sae-lens is not installed")
    save_sae(random_sae(architecture), tmp_path / "ours")
    theirs = sae_lens.SAE.load_from_disk(str(tmp_path / "ours"))
    theirs.save_model(str(tmp_path / "theirs"))
    again = load_sae(tmp_path / "theirs")
    torch.testing.assert_close(again(activations()), theirs(activations()), rtol=1e-4, atol=1e-5)
