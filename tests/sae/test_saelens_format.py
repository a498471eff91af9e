"""Members on disk: the files that SAELens 6 expects, round trips, and SAELens itself if it is installed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sae_core.foundation.errors import UserError
from sae_core.foundation.settings.run_settings import Architecture, SAESettings
from sae_core.sae import ARCHITECTURES, SAE, BatchTopKSAE, make_sae
from sae_core.sae.formats.saelens import load_sae, save_sae


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


def foreign(folder: Path, kind: Architecture, /, **changes: object) -> dict[str, torch.Tensor]:
    """A folder as SAELens writes it, without this project's metadata, with atoms of any length; its tensors."""
    save_sae(random_sae(kind), folder)
    config = json.loads((folder / "cfg.json").read_text())
    del config["metadata"]["sae_ensemble"]
    given = {**config, **changes}
    (folder / "cfg.json").write_text(json.dumps({key: value for key, value in given.items() if value is not ...}))
    tensors = load_file(folder / "sae_weights.safetensors")
    tensors["W_dec"] *= torch.linspace(0.3, 3.0, 24)[:, None]
    save_file(tensors, folder / "sae_weights.safetensors")
    return tensors


@pytest.mark.parametrize("subtracts", [True, False, ...])
@pytest.mark.parametrize("architecture", ["relu", "topk", "jumprelu"])
def test_b_dec_is_subtracted_as_the_settings_say(architecture: Architecture, subtracts: object, tmp_path: Path) -> None:
    tensors = foreign(tmp_path, architecture, apply_b_dec_to_input=subtracts)
    # SAELens takes a missing key for true.
    centred = activations() - (tensors["b_dec"] if subtracts else 0)
    pre = centred @ tensors["W_enc"] + tensors["b_enc"]
    if architecture == "topk":
        expected = torch.zeros_like(pre).scatter_(1, *pre.topk(3)[::-1]).relu()
    else:
        expected = pre * (pre > tensors.get("threshold", torch.tensor(0.0)))
    again = load_sae(tmp_path)
    torch.testing.assert_close(again.encode(activations()), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(again(activations()), expected @ tensors["W_dec"] + tensors["b_dec"])


@pytest.mark.parametrize("subtracts", [True, False])
def test_topk_chooses_by_preactivations_rescaled_by_the_norms_of_atoms(subtracts: bool, tmp_path: Path) -> None:
    tensors = foreign(tmp_path, "topk", rescale_acts_by_decoder_norm=True, apply_b_dec_to_input=subtracts)
    norms, centred = tensors["W_dec"].norm(dim=1), activations() - (tensors["b_dec"] if subtracts else 0)
    plain = centred @ tensors["W_enc"] + tensors["b_enc"]
    pre = plain * norms
    assert not torch.equal(pre.topk(3).indices.sort().values, plain.topk(3).indices.sort().values)
    expected = torch.zeros_like(pre).scatter_(1, *pre.topk(3)[::-1]).relu()
    again = load_sae(tmp_path)
    torch.testing.assert_close(again.encode(activations()), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(again(activations()), (expected / norms) @ tensors["W_dec"] + tensors["b_dec"])
    torch.testing.assert_close(again.W_dec.norm(dim=1), torch.ones(24))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"normalize_activations": "expected_average_only_in"}, "normalize_activations is 'expected_average_only_in'"),
        ({"normalize_activations": "constant_norm_rescale"}, "normalize_activations is 'constant_norm_rescale'"),
        ({"normalize_activations": "layer_norm"}, "normalize_activations is 'layer_norm'"),
        ({"normalize_activations": "covariance_whitening"}, "normalize_activations is 'covariance_whitening'"),
        ({"normalize_activations": ["none"]}, r"normalize_activations is \['none'\]"),
        ({"normalize_activations": True, "metadata": {}}, "normalize_activations is 'expected_average_only_in'"),
        ({"reshape_activations": "hook_z"}, "reshape_activations is 'hook_z'"),
        ({"reshape_activations": ..., "metadata": {}, "hook_name": "blocks.0.attn.hook_z"}, "reshape_activations"),
        ({"rescale_acts_by_decoder_norm": "yes"}, "rescale_acts_by_decoder_norm is 'yes'"),
        ({"architecture": "standard", "rescale_acts_by_decoder_norm": True}, "only the architecture topk has that"),
        ({"apply_b_dec_to_input": 1}, "apply_b_dec_to_input is 1"),
        ({"finetuning_scaling_factor": True}, "finetuning_scaling_factor is True"),
        ({"activation_fn": "tanh-relu"}, "activation_fn is 'tanh-relu'"),
        ({"architecture": "temporal"}, "architecture 'temporal'; known: "),
        ({"architecture": "transcoder", "d_out": 6}, "d_out is 6"),
        ({"architecture": ...}, "architecture None"),
        ({"architecture": ["topk"]}, "architecture is"),
        ({"dtype": "float8"}, "dtype is 'float8'"),
        ({"k": True}, "k is True"),
        ({"k": 0}, "k is 0"),
        ({"k": 25}, "only 24 features"),
        ({"k": ...}, "does not say k"),
        ({"d_in": 2**40}, "smaller than 2"),
        ({"d_in": 10**30}, "more than 64 bits"),
        ({"d_in": "6"}, "d_in is '6'"),
        ({"d_sae": 2**31 - 1}, "b_enc is float32 of shape"),
        ({"secret_exponent": 2}, "secret_exponent is 2"),
        ({"metadata": None}, "metadata is None"),
        ({"metadata": {"sae_ensemble": {"architecture": "relu"}}}, "architecture 'relu'"),
        ({"metadata": {"sae_ensemble": {"architecture": "topk", "momentum": 2}}}, "does not describe a TopKSAE"),
    ],
)
def test_what_cannot_be_followed_is_refused_by_its_name(changes: dict, named: str, tmp_path: Path) -> None:
    foreign(tmp_path, "topk", **changes)
    with pytest.raises(UserError, match=named) as caught:
        load_sae(tmp_path)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"hook_name": "blocks.3.hook_resid_post", "hook_head_index": None, "prepend_bos": False, "model_name": "x"},
        {"metadata": {}, "architecture": "standard", "activation_fn_str": "topk", "activation_fn_kwargs": {"k": 3}},
        {"metadata": {}, "k": ..., "activation_fn": "topk", "activation_fn_kwargs": {"k": 3}},
        {"normalize_activations": None, "reshape_activations": None, "aux_loss_coefficient": 0.5},
        {"normalize_activations": False, "metadata": {}},
    ],
)
def test_what_changes_nothing_is_passed_over(changes: dict, tmp_path: Path) -> None:
    foreign(tmp_path / "plain", "topk")
    foreign(tmp_path / "more", "topk", **changes)
    one, two = (load_sae(tmp_path / name) for name in ("plain", "more"))
    assert torch.equal(one(activations()), two(activations()))


@pytest.mark.parametrize(
    ("name", "tensor", "said"),
    [
        ("b_enc", None, "lacks the tensor b_enc"),
        ("r_mag", torch.ones(24), "also holds the tensor r_mag"),
        ("scaling_factor", torch.full((24,), 2.0), "also holds the tensor scaling_factor"),
        ("scaling_factor", torch.ones(24), None),
        ("W_enc", torch.ones(24, 6), r"W_enc is float32 of shape \[24, 6\]"),
        ("b_dec", torch.zeros(6, dtype=torch.int64), "b_dec is int64"),
        ("b_dec", torch.zeros(6, dtype=torch.float64), None),
        ("b_dec", torch.tensor([0, 1, 2, float("nan"), 0, 0]), "b_dec holds NaN or infinity"),
        ("b_dec", torch.full((6,), 1e300, dtype=torch.float64), "b_dec holds NaN or infinity"),
        ("W_dec", torch.full((24, 6), -float("inf")), "W_dec holds NaN or infinity"),
    ],
)
def test_tensors_are_checked(name: str, tensor: torch.Tensor | None, said: str | None, tmp_path: Path) -> None:
    tensors = foreign(tmp_path, "topk")
    save_file(
        {key: value for key, value in {**tensors, name: tensor}.items() if value is not None},
        tmp_path / "sae_weights.safetensors",
    )
    if said is None:
        assert bool(load_sae(tmp_path)(activations()).isfinite().all())
        return
    with pytest.raises(UserError, match=said) as caught:
        load_sae(tmp_path)
    assert "sae_weights.safetensors" in str(caught.value)


def test_files_that_are_no_sae_end_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cfg\.json does not exist"):
        load_sae(tmp_path)
    save_sae(random_sae("topk"), tmp_path)
    for text, message in (
        ("[1]", "does not hold an SAE's settings"),
        ("[" * 100_000, "damaged"),
        ('{"k": NaN}', "NaN"),
    ):
        (tmp_path / "cfg.json").write_text(text)
        with pytest.raises(UserError, match=message):
            load_sae(tmp_path)


def test_a_class_that_would_come_back_as_another_is_not_saved(tmp_path: Path) -> None:
    class Squared(ARCHITECTURES["topk"]):  # type: ignore[name-defined,misc]
        def activate(self, pre_BN: torch.Tensor) -> torch.Tensor:
            squared: torch.Tensor = super().activate(pre_BN).square()
            return squared

    with pytest.raises(UserError, match="Squared calls its architecture topk, which is another class"):
        save_sae(Squared(6, 24, k=3), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.interop
@pytest.mark.parametrize(
    "architecture", [name for name, kind in ARCHITECTURES.items() if kind.saelens or kind.saved_as]
)
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


@pytest.mark.interop
@pytest.mark.parametrize("rescaled", [True, False])
@pytest.mark.parametrize("subtracts", [True, False, ...])
@pytest.mark.parametrize("architecture", ["relu", "topk", "jumprelu"])
def test_settings_mean_what_saelens_means(
    architecture: Architecture, subtracts: object, rescaled: bool, tmp_path: Path
) -> None:
    sae_lens = pytest.importorskip("sae_lens", reason="sae-lens is not installed")
    changes = {"rescale_acts_by_decoder_norm": rescaled} if architecture == "topk" else {}
    foreign(tmp_path, architecture, apply_b_dec_to_input=subtracts, **changes)
    theirs, ours = sae_lens.SAE.load_from_disk(str(tmp_path)), load_sae(tmp_path)
    torch.testing.assert_close(ours.encode(activations()), theirs.encode(activations()), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours(activations()), theirs(activations()), rtol=1e-5, atol=1e-5)
