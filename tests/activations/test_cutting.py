"""Texts cut into passages: the same tokens as before, no passage too long, and only white space lost."""

from __future__ import annotations

import random
import re
from pathlib import Path

import numpy as np
import pytest
from models import build_tokenizer, sample_texts
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import BertTokenizerLegacy, PreTrainedTokenizerFast

from sae_core.activations.origins.language_model import cutting
from sae_core.activations.origins.language_model.cutting import count_tokens, cut_texts, special_tokens
from sae_core.activations.origins.language_model.tokenized import TextTokenizer
from sae_core.foundation.errors import UserError

PROSE = " ".join(sample_texts(60, seed=3))
ODD = PROSE[:500] + "\n\n\n" + "你好 😀é" * 40 + "x" * 900 + "   " + PROSE[500:900] + " \n"


def space_before(tmp_path: Path) -> PreTrainedTokenizerFast:
    """A tokenizer that puts a space before every text, as Llama's does."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Prepend("▁")  # type: ignore[assignment]
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<unk>", "<s>"], show_progress=False)
    tokenizer.train_from_iterator([PROSE], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", unk_token="<unk>")


def in_python(tmp_path: Path) -> PreTrainedTokenizerFast:
    """A tokenizer that does not say where its tokens stand: each byte is one."""
    from transformers import ByT5Tokenizer

    return ByT5Tokenizer()


def byte_level(tmp_path: Path) -> PreTrainedTokenizerFast:
    """A tokenizer of bytes and pieces of words, with a special token at either end."""
    return build_tokenizer("bert")


TOKENIZERS = (byte_level, space_before, in_python)


def ids_of(tokenizer: TextTokenizer, text: str) -> np.ndarray:
    (read,) = tokenizer.encode([text])
    return read.ids[read.ordinary]


@pytest.mark.parametrize("build", TOKENIZERS)
@pytest.mark.parametrize("context", [12, 64])
def test_passages_are_the_text_and_fit(tmp_path: Path, build: object, context: int) -> None:
    tokenizer = TextTokenizer(build(tmp_path), causal=True, context=context)  # type: ignore[operator]
    room = context - special_tokens(tokenizer)
    for text in (PROSE, ODD, "x" * 700, "short", " ", "a b"):
        (passages,) = cut_texts(tokenizer, [text])
        assert "".join("".join(passage.text for passage in passages).split()) == "".join(text.split())
        for passage in passages:
            assert 0 < len(passage.ids) <= room
            np.testing.assert_array_equal(ids_of(tokenizer, passage.text), passage.ids)


def test_passages_are_full_and_hold_the_tokens_of_the_whole_text(tmp_path: Path) -> None:
    tokenizer = TextTokenizer(byte_level(tmp_path), causal=True, context=64)
    (passages,) = cut_texts(tokenizer, [PROSE])
    (whole,) = tokenizer.encode([PROSE], whole=True)
    np.testing.assert_array_equal(np.concatenate([each.ids for each in passages]), whole.ids[whole.ordinary])
    assert [len(each.ids) for each in passages[:-1]] == [62] * (len(passages) - 1)
    assert count_tokens(tokenizer, [PROSE, "", PROSE]) == [whole.ordinary.sum(), 0, whole.ordinary.sum()]


def test_where_every_text_gets_a_space_passages_begin_with_words(tmp_path: Path) -> None:
    tokenizer = TextTokenizer(space_before(tmp_path), causal=True, context=40)
    (passages,) = cut_texts(tokenizer, [PROSE])
    words = set(PROSE.split())
    assert np.mean([passage.text.split()[0] in words for passage in passages]) >= 0.98
    assert np.mean([len(each.ids) > 40 // 2 for each in passages[:-1]]) >= 0.98


def words_in_python(tmp_path: Path) -> BertTokenizerLegacy:
    """A tokenizer in Python whose words are of several tokens."""
    pieces = dict.fromkeys([*"abcdefghijklmnopqrstuvwxyz.,;:`<>()0123456789", *"aeiou", "th", "column", "return"])
    entries = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *pieces, *(f"##{piece}" for piece in (*pieces, "er"))]
    (tmp_path / "vocab.txt").write_text("\n".join(entries))
    return BertTokenizerLegacy(str(tmp_path / "vocab.txt"))


def test_a_tokenizer_in_python_cuts_between_words(tmp_path: Path) -> None:
    tokenizer = TextTokenizer(words_in_python(tmp_path), causal=False, context=40)
    (passages,) = cut_texts(tokenizer, [PROSE])
    assert len(passages) > 20
    assert {word for each in passages for word in re.findall(r"\w+", each.text)} <= {*re.findall(r"\w+", PROSE)}
    (whole,) = tokenizer.encode([PROSE], whole=True)
    np.testing.assert_array_equal(np.concatenate([each.ids for each in passages]), whole.ids[whole.ordinary])
    assert all(19 < len(each.ids) <= 38 for each in passages[:-1])
    # A word that is longer than the context has to be cut.
    (pieces,) = cut_texts(tokenizer, ["x" * 700])
    assert "".join(each.text for each in pieces) == "x" * 700


def test_a_tokenizer_in_python_of_bytes_fills_its_passages(tmp_path: Path) -> None:
    tokenizer = TextTokenizer(in_python(tmp_path), causal=False, context=40)
    (passages,) = cut_texts(tokenizer, [PROSE])
    assert {len(each.ids) for each in passages[:-1]} == {39}
    assert "".join(each.text for each in passages) == PROSE


def test_many_texts_are_cut_as_each_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = TextTokenizer(byte_level(tmp_path), causal=True, context=20)
    texts = [PROSE, "one", "", ODD, PROSE[:300], "two words"]
    alone = [cut_texts(tokenizer, [text])[0] for text in texts]
    monkeypatch.setattr(cutting, "GROUP_CHARS", 400)
    for one, other in zip(alone, cut_texts(tokenizer, texts), strict=True):
        assert [each.text for each in one] == [each.text for each in other]
    monkeypatch.setattr(cutting, "STRETCH_CHARS", 200)
    for text, passages in zip(texts, cut_texts(tokenizer, texts), strict=True):
        assert "".join("".join(each.text for each in passages).split()) == "".join(text.split())
        assert all(len(each.ids) <= 18 for each in passages)


def test_a_long_word_takes_time_in_proportion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Counted, not timed: however long the text, no character is read more often.
    def characters_read(text: str) -> int:
        tokenizer = TextTokenizer(in_python(tmp_path), causal=True, context=32)
        real, read = tokenizer.encode, [0]

        def counting(texts: list[str], *args: object, **options: object) -> object:
            read[0] += sum(map(len, texts))
            return real(texts, *args, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(tokenizer, "encode", counting)
        cut_texts(tokenizer, [text])
        return read[0]

    chance = random.Random(0)
    text = "".join(chance.choice("ACDEFGHIKLMNPQRSTVWY") for _ in range(20_000))
    assert characters_read(text) < 2.2 * characters_read(text[:10_000])


def test_a_context_of_special_tokens_alone_is_refused(tmp_path: Path) -> None:
    tokenizer = TextTokenizer(byte_level(tmp_path), causal=True, context=2)
    with pytest.raises(UserError, match=r"model\.context is 2, and the tokenizer puts 2 special tokens around"):
        cut_texts(tokenizer, ["text"])
