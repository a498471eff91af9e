"""Tokens of a text: special tokens in the text stay text, and characters unknown to the tokenizer are counted."""

from __future__ import annotations

from pathlib import Path

import pytest
from models import build_model, build_tokenizer
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertTokenizer, ByT5Tokenizer, EsmTokenizer, PreTrainedTokenizerFast, T5Tokenizer

from sae_core.activations.origins.language_model.model.vocabulary import splits_special
from sae_core.activations.origins.language_model.reading import LanguageModel
from sae_core.activations.origins.language_model.tokenized import TextTokenizer
from sae_core.foundation.errors import UserError
from sae_core.foundation.settings.run_settings import ModelSettings

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
    assert share_of(tokenizer, "zzz yyy xxx the qqq www") == pytest.approx(5 / 6)


def share_of(tokenizer: object, *texts: str, context: int = 64) -> float:
    return TextTokenizer(tokenizer, causal=False, context=context).unknown_share(texts)


def test_unknown_text_counts_by_its_characters_and_not_by_its_tokens(tmp_path: Path) -> None:
    letters = "<cls> <pad> <eos> <unk> L A G V S E R T I D P K Q N F Y M H W C X B U Z O . - <null_1> <mask>"
    (tmp_path / "vocab.txt").write_text("\n".join(letters.split()))
    protein = EsmTokenizer(str(tmp_path / "vocab.txt"))
    assert protein("ACDEFGHIKacdefghik", add_special_tokens=False)["input_ids"].count(3) == 1
    assert share_of(protein, "ACDEFGHIKacdefghik") == 0.5
    assert share_of(protein, "ACDEFGHIK", "ACDEacdefghikACDE") == pytest.approx(9 / 26)
    assert share_of(protein, "MLAGV") == 0
    inner = Tokenizer(models.WordLevel({"<unk>": 0, "a": 1, "the": 2}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    words = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>")
    assert share_of(words, "a a a a internationalization") == pytest.approx(20 / 24)
    assert share_of(words, "a the a internationalization", context=3) == 0  # what is cut off is not read


def test_characters_that_a_tokenizer_drops_are_counted() -> None:
    inner = Tokenizer(models.BPE({**{letter: n for n, letter in enumerate("abcdef ")}, "ab": 7}, [("a", "b")]))
    dropping = PreTrainedTokenizerFast(tokenizer_object=inner)
    assert len(dropping("aXbYcab")["input_ids"]) == 3, "this tokenizer no longer shows the fault"
    assert share_of(dropping, "aXbYcab") == pytest.approx(2 / 7)
    assert share_of(dropping, "abc def") == 0
    assert share_of(dropping, "abc", "XYZ 123", "def") == pytest.approx(6 / 12)
    # Of another case and without accents, but read.
    lower = BertTokenizer(
        vocab={word: n for n, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cafe"])}
    )
    assert share_of(lower, "Café CAFE") == 0
    assert share_of(build_tokenizer("llama"), "naïve 你好 🙂 <|bos|> \n\n x") == 0
    assert share_of(ByT5Tokenizer(), "naïve 你好 🙂") == 0
    assert share_of(unigram(), "the fox") == 0


def test_dropped_characters_of_a_corpus_are_said_and_above_a_half_refused(tmp_path: Path) -> None:
    inner = Tokenizer(models.BPE({letter: n for n, letter in enumerate("<>abcdefghijklmnopqrstuvwxyz .,")}, []))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<", pad_token=">", eos_token=">")
    reader = LanguageModel(build_model("llama"), tokenizer, ModelSettings(name="small", layer=1, context=40))
    assert reader.check_known(["abcd", "efgX"]) == 1 / 8
    assert reader.remarks[-1] == "The tokenizer does not know 12.50% of the characters."
    with pytest.raises(UserError, match="does not know 75% of the characters of this text"):
        reader.check_known(["aXYZ"])
    with pytest.raises(UserError, match="does not know 75% of the characters of this text"):
        next(reader.activations(["aXYZ"], context=20))
