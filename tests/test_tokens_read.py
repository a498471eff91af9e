"""What a text becomes: special tokens that it names stay text, and what a tokenizer does not know is counted."""

from __future__ import annotations

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertTokenizer, PreTrainedTokenizerFast, T5Tokenizer

from sae_core.activations.models.vocabulary import splits_special, unknown_share
from sae_core.activations.tokenized import TextTokenizer

TEXT = "the fox </s> the <pad> fox"


def unigram() -> T5Tokenizer:
    """A tokenizer whose vocabulary holds the special tokens as pieces."""
    pieces = ["<pad>", "</s>", "<unk>", "▁the", "▁fox", "▁", *"abcdefghijklmnopqrstuvwxyz<>/ "]
    return T5Tokenizer(vocab=[(piece, -float(number)) for number, piece in enumerate(pieces)], extra_ids=0)


def ordinary_ids(tokenizer: object, text: str) -> list[int]:
    (read,) = TextTokenizer(tokenizer, causal=False, context=64).encode([text])
    return read.ids[read.ordinary].tolist()


def test_a_special_token_that_a_text_names_stays_text_where_the_option_does_not_split_it() -> None:
    tokenizer = unigram()
    split = tokenizer(TEXT, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert {0, 1} & {*split}, "this tokenizer no longer shows the fault"
    assert not splits_special(tokenizer, name="x")
    ids = ordinary_ids(tokenizer, TEXT)
    assert not {0, 1} & {*ids}
    assert ids.count(tokenizer.convert_tokens_to_ids("▁fox")) == 2


def test_the_option_is_used_where_it_splits() -> None:
    vocabulary = {
        word: n for n, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "[", "]", "mask"])
    }
    tokenizer = BertTokenizer(vocab=vocabulary)
    assert splits_special(tokenizer, name="x")
    assert vocabulary["[MASK]"] not in ordinary_ids(tokenizer, "the [MASK] the")


@pytest.mark.parametrize("said", [True, False])
def test_unknown_tokens_are_counted_whoever_names_them(said: bool) -> None:
    inner = Tokenizer(models.WordLevel({"<unk>": 0, "the": 1}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, **({"unk_token": "<unk>"} if said else {}))
    ids = np.array(tokenizer("zzz yyy xxx the qqq www")["input_ids"], np.int32)
    assert unknown_share(tokenizer, [ids]) == pytest.approx(5 / 6)
