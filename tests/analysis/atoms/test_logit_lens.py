"""The logit lens against the definition, token by token."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models
from torch.nn.functional import layer_norm

from sae_core.activations.origins.text.token_texts import TokenTexts
from sae_core.analysis.atoms.logit_lens import lens_logits, promoted_tokens
from sae_core.ensembles.ensemble import Ensemble
from sae_core.sae import ReLUSAE

D, VOCABULARY = 6, 11


@pytest.fixture
def lens() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "unembed_VD": torch.randn(VOCABULARY, D, generator=generator),
        "norm_weight_D": torch.rand(D, generator=generator) + 0.5,
    }


def test_logits_are_those_of_a_norm_without_its_division(lens: dict[str, torch.Tensor]) -> None:
    atoms = torch.randn(4, D, generator=torch.Generator().manual_seed(1))
    for extra in ({}, {"norm_bias_D": torch.ones(D)}):
        logits = lens_logits(atoms, lens | extra)
        for atom, found in zip(atoms, logits, strict=True):
            inner = atom - atom.mean() if extra else atom
            expected = torch.stack([(inner * lens["norm_weight_D"]) @ row for row in lens["unembed_VD"]])
            torch.testing.assert_close(found, expected - expected.mean())


def test_the_order_is_that_of_a_true_layer_norm(lens: dict[str, torch.Tensor]) -> None:
    atom = torch.randn(1, D, generator=torch.Generator().manual_seed(2))
    true = layer_norm(atom, (D,), weight=lens["norm_weight_D"]) @ lens["unembed_VD"].T
    found = lens_logits(atom, lens | {"norm_bias_D": torch.ones(D)})
    assert torch.equal(found.argsort(dim=1), true.argsort(dim=1))


def test_promoted_and_suppressed_tokens(
    lens: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sae_core.analysis.atoms.logit_lens._CELLS", 3 * VOCABULARY)
    # The vocabulary is padded by two rows that no token has, and token 0 is special.
    tokenizer = Tokenizer(models.WordLevel({f"t{token}": token for token in range(9)}, unk_token="t8"))
    tokenizer.add_special_tokens(["t0"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    ensemble = Ensemble([ReLUSAE(D, 3, seed=0), ReLUSAE(D, 5, seed=1)], wiring="parallel")
    table = promoted_tokens(ensemble, lens, TokenTexts(tmp_path / "tokenizer.json"), count=3)
    assert table["feature"].tolist() == list(range(8))
    logits = lens_logits(ensemble.dictionary.detach(), lens)
    for row in table.to_dict("records"):
        by_token = {f"t{token}": float(logits[row["feature"], token]) for token in range(1, 9)}
        ranked = sorted(by_token, key=lambda token: by_token[token])
        assert row["promoted"] == ranked[::-1][:3]
        assert row["suppressed"] == ranked[:3]
        assert row["promoted_scores"] == pytest.approx([by_token[token] for token in row["promoted"]], abs=1e-5)
        assert row["suppressed_scores"] == pytest.approx([by_token[token] for token in row["suppressed"]], abs=1e-5)
