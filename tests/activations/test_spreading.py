"""Models spread over devices give what they give on one; what cannot be had is refused in one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from models import build_model_folder, sample_texts

from sae_core.activations.origins.language_model.model.loading import load_model
from sae_core.activations.origins.language_model.reading import LanguageModel
from sae_core.activations.origins.language_model.substitution import SubstitutedModel
from sae_core.foundation.errors import UserError
from sae_core.foundation.settings.run_settings import ModelSettings

TEXTS = sample_texts(6, seed=2)
SPREADING = "sae_core.activations.origins.language_model.model.spreading"


def test_missing_packages_and_a_missing_gpu_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ModelSettings(name=str(build_model_folder(tmp_path / "model")), layer=1)
    for change, said in (
        ({"device_map": "auto"}, "device_map is auto, and accelerate is not installed; run pip install accelerate"),
        ({"load_in_8bit": True}, "true, and bitsandbytes and accelerate are not installed"),
    ):
        monkeypatch.setattr(f"{SPREADING}.find_spec", lambda name: None)
        with pytest.raises(UserError, match=said):
            load_model(settings.model_copy(update=change), device="cpu")
    monkeypatch.setattr(f"{SPREADING}.find_spec", lambda name: object())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="needs a GPU"):
        load_model(settings.model_copy(update={"load_in_8bit": True}), device="cpu")
    hooked = ModelSettings(name="transformer-lens:gelu-1l", device_map="auto")
    with pytest.raises(UserError, match="for models that transformers loads"):
        load_model(hooked, device="cpu")


@pytest.mark.parametrize("places", ["auto", "disk"])
def test_a_spread_model_gives_what_it_gives_on_one_device(tmp_path: Path, places: str) -> None:
    pytest.importorskip("accelerate")
    settings = ModelSettings(name=str(build_model_folder(tmp_path / "model")), layer=1, context=40)
    names = ("embed_tokens", "rotary_emb", "norm", *(f"layers.{number}" for number in range(3)))
    parts = {f"model.{name}": "disk" if name in ("layers.1", "layers.2") else "cpu" for name in names}
    own = {**parts, "lm_head": "cpu"} if places == "disk" else "auto"
    spread = settings.model_copy(update={"device_map": own})
    for kind in (settings, spread):
        model = LanguageModel.load(kind)
        read = torch.cat([batch.acts_TD for batch in model.activations(TEXTS)])
        (passages,) = SubstitutedModel.load(kind).passages(TEXTS, tokens=500)
        zero = passages.substitute(torch.zeros_like(passages.acts_TD)).cross_entropy_B
        if kind is settings:
            expected, lost = read, zero
    assert torch.allclose(read, expected, atol=1e-5)
    assert zero == pytest.approx(lost, rel=1e-4)
