"""Models that change while they run: every text is read as by a fresh model, and a note says so."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers as hf
from models import VOCABULARY, build_tokenizer, sample_texts
from torch import nn

from sae_core.activations.origins.language_model.model.switching import Switch, unswitched
from sae_core.activations.origins.language_model.reading import LanguageModel
from sae_core.foundation.settings.run_settings import ModelSettings

LONGEST_FULL = (5 + 2) * 4
"""Tokens up to which this BigBird reads with full attention, whatever is asked for."""


@pytest.fixture(scope="module")
def sparse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    size = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}
    config = hf.BigBirdConfig(
        vocab_size=VOCABULARY, block_size=4, num_random_blocks=1, max_position_embeddings=128, pad_token_id=1, **size
    )
    model = hf.BigBirdForMaskedLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    folder = tmp_path_factory.mktemp("sparse")
    model.save_pretrained(folder)
    build_tokenizer("bert").save_pretrained(folder)
    return folder


def fresh(folder: Path, ids: list[int]) -> torch.Tensor:
    model = hf.BigBirdModel.from_pretrained(folder).eval()
    with torch.no_grad():
        return model(torch.tensor([ids]), output_hidden_states=True).hidden_states[2][0, : len(ids)]


def test_short_and_long_texts_are_each_read_as_by_a_fresh_model(sparse: Path, caplog: pytest.LogCaptureFixture) -> None:
    reader = LanguageModel.load(ModelSettings(name=str(sparse), layer=1, context=61))
    long = " ".join(sample_texts(12, seed=4))
    texts = ["the index", long, "a matrix sorts the values", "every column " + long]
    read = [reader.tokenizer(text, truncation=True, max_length=61)["input_ids"] for text in texts]
    assert [len(ids) > LONGEST_FULL for ids in read] == [False, True, False, True]
    (batch,) = reader.activations(texts)
    assert not any("block_sparse" in record.message for record in caplog.records)
    for number, ids in enumerate(read):
        expected = fresh(sparse, ids)[1:-1]
        torch.testing.assert_close(batch.acts_TD[batch.document_T == number], expected, atol=1e-5, rtol=1e-4)
    assert any("Short texts are read with attention_type original_full, not block_sparse" in e for e in reader.remarks)
    assert any("batches of one length" in remark for remark in reader.remarks)


def test_a_context_in_which_the_model_always_switches_is_said(sparse: Path) -> None:
    reader = LanguageModel.load(ModelSettings(name=str(sparse), layer=1, context=20))
    assert any("Texts of up to 20 tokens are read with attention_type original_full" in e for e in reader.remarks)
    (ids,) = ([*reader.tokenizer("the index")["input_ids"]],)
    acts_TD = next(reader.activations(["the index"])).acts_TD
    torch.testing.assert_close(acts_TD, fresh(sparse, ids)[1:-1], atol=1e-5, rtol=1e-4)


def test_settings_and_parts_are_put_back() -> None:
    class Changing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kind, self.table, self.calls, self.part = "sparse", torch.ones(2), 0, nn.Linear(2, 2)

        def forward(self) -> None:
            self.kind, self.table, self.calls, self.part = "full", torch.zeros(2), 1, nn.Linear(2, 2)
            raise ValueError("in the middle")

    model = Changing()
    part, table = model.part, model.table
    with pytest.raises(ValueError, match="middle"), unswitched(model) as switches:
        model()
    assert (model.kind, model.calls) == ("sparse", 0)
    assert model.part is part
    assert model.table is table
    assert switches == [Switch("kind", "sparse", "full")]
