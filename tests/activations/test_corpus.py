"""The corpus: where documents begin and end, and tokens as readable text for every kind of vocabulary."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from sae_core.activations.corpus import Corpus
from sae_core.activations.origins.text.token_texts import PARTIAL, TokenTexts, byte_alphabet
from sae_core.foundation.errors import UserError
from sae_core.foundation.files.whole_files import write_table, write_tensors
from sae_core.foundation.run import Run
from sae_core.foundation.settings.run_settings import RunSettings

TEXT = "The naïve café – 東京, 🙂 end.\n\n    def f(x):\n"


def byte_level(extra: list[str] | None = None) -> Tokenizer:
    """A byte-level vocabulary of single bytes and some pairs."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=275, initial_alphabet=alphabet, special_tokens=["<|bos|>"])
    tokenizer.train_from_iterator(["the cat the dog the end def def"], trainer)
    tokenizer.add_tokens(extra or [])
    return tokenizer


def texts_of(tokenizer: Tokenizer, folder: Path) -> TokenTexts:
    tokenizer.save(str(folder / "tokenizer.json"))
    return TokenTexts(folder / "tokenizer.json")


def test_the_byte_alphabet_is_the_tokenizers_own() -> None:
    alphabet = byte_alphabet()
    assert sorted(alphabet) == sorted(pre_tokenizers.ByteLevel.alphabet())
    assert sorted(alphabet.values()) == list(range(256))
    assert (alphabet["Ġ"], alphabet["Ċ"]) == (ord(" "), ord("\n"))


def test_byte_level_tokens_read_as_their_text(tmp_path: Path) -> None:
    tokenizer = byte_level()
    texts = texts_of(tokenizer, tmp_path)
    tokens = tokenizer.encode(TEXT).ids
    window = texts.sequence(tokens)
    assert len(window) == len(tokens)
    assert "".join(window).replace(PARTIAL, "") == TEXT
    assert [text for text in window if "東" in text] == ["東"]
    assert texts.text(tokenizer.encode(" the").ids[0]) == " the"


def test_part_of_a_character_is_visible_alone_and_in_a_window(tmp_path: Path) -> None:
    tokenizer = byte_level()
    texts = texts_of(tokenizer, tmp_path)
    first, second, third = tokenizer.encode("東").ids
    assert [texts.text(token) for token in (first, second)] == [r"\xe6", r"\x9d"]
    assert texts.sequence([first, second, third]) == [PARTIAL, PARTIAL, "東"]
    letter = tokenizer.encode("x").ids[0]
    assert texts.sequence([third, letter]) == [PARTIAL, "x"]  # a window that begins within a character
    assert texts.sequence([first, letter]) == [PARTIAL, f"{PARTIAL}x"]


def test_special_and_added_tokens_read_as_they_are_written(tmp_path: Path) -> None:
    tokenizer = byte_level(extra=["añb"])
    texts = texts_of(tokenizer, tmp_path)
    assert texts.text(0) == "<|bos|>"
    assert texts.special == {0}
    assert texts.text(tokenizer.token_to_id("añb")) == "añb"  # and not the byte that ñ stands for
    assert texts.vocabulary_size == tokenizer.get_vocab_size()


def test_sentencepiece_tokens(tmp_path: Path) -> None:
    vocabulary = {"<unk>": 0, "▁the": 1, "cat": 2, "<0xE6>": 3, "<0x9D>": 4, "<0xB1>": 5, "▁▁": 6}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    tokenizer.decoder = decoders.Sequence(  # type: ignore[assignment]
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    texts = texts_of(tokenizer, tmp_path)
    assert [texts.text(token) for token in (1, 2, 6, 3)] == [" the", "cat", "  ", r"\xe6"]
    assert texts.sequence([1, 3, 4, 5]) == [" the", PARTIAL, PARTIAL, "東"]


def test_wordpiece_tokens(tmp_path: Path) -> None:
    tokenizer = Tokenizer(models.WordPiece({"[UNK]": 0, "play": 1, "##ing": 2, "▁x": 3}, unk_token="[UNK]"))
    tokenizer.decoder = decoders.WordPiece()  # type: ignore[assignment]
    texts = texts_of(tokenizer, tmp_path)
    assert texts.sequence([1, 2, 3]) == [" play", "ing", " ▁x"]


def test_end_of_word_suffixes_become_spaces(tmp_path: Path) -> None:
    tokenizer = Tokenizer(models.BPE({"lo": 0, "w</w>": 1}, [], end_of_word_suffix="</w>"))
    assert texts_of(tokenizer, tmp_path).sequence([0, 1]) == ["lo", "w "]


def test_unknown_tokens_read_as_their_number(tmp_path: Path) -> None:
    assert texts_of(byte_level(), tmp_path).text(5000) == "#5000"
    assert TokenTexts().sequence([1, 2]) == ["#1", "#2"]


def write_corpus(run: Run, offsets: list[int], documents: int) -> None:
    tokens = torch.arange(10, dtype=torch.int32)
    write_tensors(run.corpus.tokens, {"tokens": tokens, "offsets": torch.tensor(offsets)})
    names = ["numpy", None, "torch", "plotly"][:documents]
    write_table(run.corpus.documents, pd.DataFrame({"package": names, "row": range(documents)}))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "run", RunSettings())


def test_documents_spans_and_metadata(run: Run) -> None:
    write_corpus(run, [0, 4, 4, 9, 10], 4)  # the second document is empty
    corpus = Corpus.open(run)
    assert len(corpus) == 10
    assert corpus.document_of(np.arange(10)).tolist() == [0, 0, 0, 0, 2, 2, 2, 2, 2, 3]
    assert int(corpus.document_of(9)) == 3
    assert corpus.span(1, before=3, after=1) == range(3)
    assert corpus.span(3, before=1, after=5) == range(2, 4)
    assert corpus.span(4, before=5, after=2) == range(4, 7)
    assert corpus.span(9, before=5, after=5) == range(9, 10)
    assert corpus.metadata(0) == {"package": "numpy", "row": 0}
    assert corpus.metadata(1) == {"row": 1}
    assert corpus.window_texts(range(2, 4)) == ["#2", "#3"]


@pytest.mark.parametrize(("offsets", "documents"), [([0, 4, 9], 2), ([0, 5, 4, 10], 3), ([1, 10], 1), ([0, 4, 10], 3)])
def test_files_that_do_not_fit_are_refused(run: Run, offsets: list[int], documents: int) -> None:
    write_corpus(run, offsets, documents)
    with pytest.raises(UserError, match="does not fit"):
        Corpus.open(run)


def test_a_missing_or_damaged_corpus_is_refused(run: Run) -> None:
    with pytest.raises(UserError, match="does not exist"):
        Corpus.open(run)
    write_corpus(run, [0, 10], 1)
    run.corpus.tokens.write_bytes(run.corpus.tokens.read_bytes()[:-3])
    with pytest.raises(UserError, match="damaged"):
        Corpus.open(run)
    write_corpus(run, [0, 10], 1)
    run.corpus.tokenizer.mkdir()
    (run.corpus.tokenizer / "tokenizer.json").write_text('{"version": "1.0"}')
    with pytest.raises(UserError, match="not a tokenizer"):
        Corpus.open(run)
