"""Checkpoints of other tools: recognised, read with the same coefficients and reconstruction, placed; and the tools."""

from __future__ import annotations

import importlib
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import (
    CLASSES,
    WRITERS,
    D,
    K,
    N,
    activations,
    dictionary_learning,
    llama_scope,
    saelens,
    sparsify,
    written,
)

from sae_core.foundation.errors import UserError
from sae_core.sae.formats.declaration import formats, place_of, read_checkpoint
from sae_core.sae.formats.saelens import load_sae, save_sae


def assert_same(found: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", WRITERS)
def test_a_checkpoint_computes_what_its_tool_does(name: str, tmp_path: Path) -> None:
    there = written(name, tmp_path)
    found = read_checkpoint(there.folder)
    assert found.kind == there.kind
    assert_same(found.sae.encode(activations()), there.coefs_BN)
    assert_same(found.sae(activations()), there.recon_BD)
    assert (found.place.model, found.place.layer, found.place.site) == there.place
    assert 0.01 < float((there.coefs_BN > 0).float().mean()) < 0.7
    # As a file, and again as a member of this package.
    assert read_checkpoint(found.files[0]).kind == there.kind
    save_sae(found.sae, tmp_path / "again")
    assert_same(load_sae(tmp_path / "again")(activations()), there.recon_BD)


def test_every_format_has_such_a_test(tmp_path: Path) -> None:
    titles = {each.title for each in formats()}
    seen = {written(name, tmp_path / name).kind for name in WRITERS}
    assert all(any(kind.startswith(title) for kind in seen) for title in titles)
    assert len({each.files for each in formats()}) == len(titles)


@pytest.mark.parametrize(
    ("hook", "layer", "site"),
    [
        ("blocks.7.hook_resid_post", 7, "residual"),
        ("blocks.7.hook_resid_pre", 6, "residual"),
        ("blocks.0.hook_resid_pre", None, None),
        ("blocks.7.hook_mlp_out", 7, "mlp"),
        ("blocks.7.hook_attn_out", 7, "attention"),
        ("blocks.7.attn.hook_z", None, None),
        ("blocks.7.ln2.hook_normalized", None, None),
        ("layers.12", 12, "residual"),
        ("gpt_neox.layers.3.mlp", 3, "mlp"),
        ("transformer.h.5", 5, "residual"),
        ("h.5.attn", 5, "attention"),
        ("model.layers.5.output", 5, "residual"),
        ("model.layers.12.post_attention_layernorm", None, None),
        ("embed_tokens", None, None),
    ],
)
def test_hooks_are_layers_and_sites(hook: str, layer: int | None, site: str | None) -> None:
    place = place_of(hook, "m")
    assert (place.model, place.layer, place.site, place.hook) == ("m", layer, site, hook)


def test_norms_of_atoms_scale_the_threshold_of_llama_scope_where_it_says_so(tmp_path: Path) -> None:
    there = llama_scope(tmp_path)
    path = there.folder / "hyperparams.json"
    path.write_text(path.read_text().replace('"top_k"', '"sparsity_include_decoder_norm": true, "top_k"'))
    sae, plain = read_checkpoint(there.folder).sae, torch.full((N,), 0.4 * D**0.5 / 2)
    scaled_ND = sae.W_dec * (D**0.5 / 2)
    assert_same(sae.threshold * scaled_ND.norm(dim=1), plain)


def test_arrays_of_the_other_byte_order_are_read(tmp_path: Path) -> None:
    there = written("gemma_scope", tmp_path)
    path = there.folder / "params.npz"
    arrays = {name: array.astype(">f4") for name, array in np.load(path).items()}
    np.savez(path, **arrays)
    assert_same(read_checkpoint(there.folder).sae(activations()), there.recon_BD)


def test_nobody_is_told_to_delete_a_checkpoint(tmp_path: Path) -> None:
    for name in ("cfg.json", "sae_weights.safetensors"):
        there = written("saelens gated", tmp_path)
        (there.folder / name).write_bytes(b"\xff")
        with pytest.raises(UserError, match=f"{name} is .*fetch or save it again"):
            read_checkpoint(there.folder)


def test_what_is_no_checkpoint_says_what_is_looked_for(tmp_path: Path) -> None:
    for path, said in (
        (tmp_path / "none", "does not exist"),
        (tmp_path, r"holds no SAE of a known format \(Gemma Scope: params.npz; "),
    ):
        with pytest.raises(UserError, match=said):
            read_checkpoint(path)
    for number in range(4):
        sparsify(tmp_path / f"run{number}")
    with pytest.raises(UserError, match=r"holds some \(run0/layers.5, run1/layers.5, run2/layers.5, and 1 more\)"):
        read_checkpoint(tmp_path)
    dictionary_learning(tmp_path / "lone", "AutoEncoder")
    (tmp_path / "lone" / "config.json").unlink()
    with pytest.raises(UserError, match=r"ae.pt seems to be of dictionary_learning, but there is no config.json"):
        read_checkpoint(tmp_path / "lone")
    sparsify(tmp_path / "two")
    saelens(tmp_path / "two" / "layers.5")
    with pytest.raises(UserError, match=r"may be of SAELens and sparsify"):
        read_checkpoint(tmp_path / "two" / "layers.5")


def peer(name: str) -> Any:
    """A module of a tool, if it is installed. dictionary_learning asks for nnsight, which its SAEs do not need."""
    package = name.partition(".")[0]
    if package == "dictionary_learning" and "nnsight" not in sys.modules:
        sys.modules["nnsight"] = types.ModuleType("nnsight")
        sys.modules["nnsight"].LanguageModel = object  # type: ignore[attr-defined]
    pytest.importorskip(package, reason=f"{package} is not installed")
    return importlib.import_module(name)


@pytest.mark.interop
@pytest.mark.parametrize("kind", CLASSES)
def test_dictionary_learning_computes_the_same(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = {"AutoEncoderTopK": "trainers.top_k", "BatchTopKSAE": "trainers.batch_top_k"}
    module["MatryoshkaBatchTopKSAE"] = "trainers.matryoshka_batch_top_k"
    theirs_class = getattr(peer(f"dictionary_learning.{module.get(kind, 'dictionary')}"), kind)
    there = dictionary_learning(tmp_path, kind)
    theirs = theirs_class.from_pretrained(str(there.folder / "ae.pt"), **({"k": K} if "TopK" in kind else {}))
    ours = read_checkpoint(there.folder).sae
    assert_same(ours.encode(activations()), theirs.encode(activations()))
    assert_same(ours(activations()), theirs(activations()))


@pytest.mark.interop
@pytest.mark.parametrize("activation", ["topk", "groupmax"])
def test_sparsify_computes_the_same(activation: str, tmp_path: Path) -> None:
    theirs = peer("sparsify").SparseCoder.load_from_disk(sparsify(tmp_path, activation).folder)
    ours = read_checkpoint(tmp_path / "layers.5").sae
    top = theirs.encode(activations())
    coefs_BN = torch.zeros(40, N).scatter_(1, top.top_indices, top.top_acts)
    assert_same(ours.encode(activations()), coefs_BN)
    assert_same(ours(activations()), theirs(activations()).sae_out)
    theirs.save_to_disk(tmp_path / "theirs" / "layers.5")
    assert_same(read_checkpoint(tmp_path / "theirs" / "layers.5").sae(activations()), ours(activations()))


@pytest.mark.interop
@pytest.mark.parametrize("kind", ["gated", "batchtopk", "matryoshka_batchtopk"])
def test_saelens_computes_the_same(kind: str, tmp_path: Path) -> None:
    sae_lens = peer("sae_lens")
    there = saelens(tmp_path / "one", kind)
    if kind == "gated":
        theirs = sae_lens.SAE.load_from_disk(str(there.folder))
        theirs.save_model(str(tmp_path / "theirs"))
    else:  # what a training saves, and the JumpReLU SAE that it is turned into
        training = sae_lens.TrainingSAE.load_from_disk(str(there.folder))
        training.save_inference_model(str(tmp_path / "theirs"))
        theirs = sae_lens.SAE.load_from_disk(str(tmp_path / "theirs"))
    for folder in (there.folder, tmp_path / "theirs"):
        ours = read_checkpoint(folder).sae
        assert_same(ours.encode(activations()), theirs.encode(activations()))
        assert_same(ours(activations()), theirs(activations()))


@pytest.mark.interop
@pytest.mark.parametrize("name", ["gemma_scope", "gemma_scope_2", "llama_scope"])
def test_the_loaders_of_saelens_read_the_same(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sae_lens, loaders = peer("sae_lens"), peer("sae_lens.loading.pretrained_sae_loaders")
    there = written(name, tmp_path)
    root = tmp_path / "gemma-scope-2b-pt-res" if name == "gemma_scope" else tmp_path
    inside = there.folder.relative_to(root).as_posix()

    def local(repo_id: str, filename: str, subfolder: str = "", **_: Any) -> str:
        return str(root / subfolder / filename)

    monkeypatch.setattr(loaders, "hf_hub_download", local)
    monkeypatch.setattr(loaders, "get_safetensors_tensor_shapes", lambda *_: {"w_enc": [D, N], "w_dec": [N, D]})
    load = {
        "gemma_scope": loaders.gemma_2_sae_huggingface_loader,
        "gemma_scope_2": loaders.gemma_3_sae_huggingface_loader,
        "llama_scope": loaders.llama_scope_sae_huggingface_loader,
    }[name]
    repo = {"gemma_scope_2": "google/gemma-scope-2-270m-pt"}.get(name, "google/gemma-scope-2b-pt-res")
    if name == "gemma_scope_2":  # the loader finds the layer in the folder's name
        inside = "resid_post/layer_5_width_16k_l0_small"
        (tmp_path / "resid_post").mkdir()
        (tmp_path / inside).symlink_to(there.folder)
    config, tensors, _ = load(repo, inside, cfg_overrides={"d_in": D, "d_sae": N, "dtype": "float32"})
    config = {name: value for name, value in config.items() if name != "jump_relu_threshold"}
    theirs = sae_lens.SAE.from_dict(loaders.handle_pre_6_0_config({**config, "architecture": "jumprelu"}))
    theirs.load_state_dict(tensors)
    if name == "llama_scope":
        theirs.fold_activation_norm_scaling_factor(D**0.5 / 2)
    ours = read_checkpoint(there.folder).sae
    assert_same(ours.encode(activations()), theirs.encode(activations()))
    assert_same(ours(activations()), theirs(activations()))
