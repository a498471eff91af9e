"""The table by token against a slow plain twin, in pieces of any size, and the tokens that a typed text finds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hand_made import corpus_of, index_of
from safetensors.numpy import save_file

from sae_core.activations.corpus import Corpus
from sae_core.analysis.index.by_token import ByToken, TokenNames, write_by_token
from sae_core.foundation.errors import UserError


def example(seed: int = 0) -> tuple[np.ndarray, Corpus]:
    generator = np.random.default_rng(seed)
    corpus = corpus_of([generator.integers(0, 12, 40).tolist() for _ in range(5)])
    dense_TF = generator.exponential(size=(200, 9)) * (generator.random((200, 9)) < 0.15)
    dense_TF[:, 4] = 0  # a dead feature
    dense_TF[:, 5] = (corpus.tokens == 3) * 2.0  # one that tells a token perfectly
    return dense_TF.astype(np.float32), corpus


def plain(dense_TF: np.ndarray, corpus: Corpus, token: int) -> list[tuple[int, float, float, float]]:
    """(feature, share, fires, score), the best first."""
    there_T = corpus.tokens == token
    rows = []
    for feature in range(dense_TF.shape[1]):
        values_T = dense_TF[:, feature].astype(np.float64)
        if values_T[there_T].sum() == 0:
            continue
        share = values_T[there_T].sum() / values_T.sum()
        fires = (values_T[there_T] > 0).sum() / there_T.sum()
        rows.append((feature, share, fires, 2 * share * fires / (share + fires)))
    return sorted(rows, key=lambda row: (-row[3], row[0]))


@pytest.mark.parametrize("kept", [1, 2, 3, 6, 50])
def test_every_token_has_the_features_that_tell_it_best(tmp_path: Path, kept: int) -> None:
    dense_TF, corpus = example()
    path = tmp_path / "by_token.safetensors"
    write_by_token(index_of(dense_TF), corpus, path, kept=kept)
    table = ByToken.open(path)
    for token in range(12):
        found = table.driven_by([token])
        expected = plain(dense_TF, corpus, token)[:kept]
        assert found["feature"].tolist() == [row[0] for row in expected]
        assert set(found["token"]) <= {token}
        np.testing.assert_allclose(found[["share", "fires", "score"]], [row[1:] for row in expected], rtol=1e-6)
    best = table.driven_by([3]).iloc[0]
    assert (best["feature"], best["share"], best["fires"], best["score"]) == (5, 1.0, 1.0, 1.0)


def test_of_many_features_that_tell_a_token_the_best_are_kept_and_of_equals_the_first(tmp_path: Path) -> None:
    generator = np.random.default_rng(3)
    corpus = corpus_of([generator.integers(0, 5, 60).tolist() for _ in range(4)])
    dense_TF = generator.integers(0, 3, (240, 40)) * (generator.random((240, 40)) < 0.4)
    dense_TF = np.concatenate([dense_TF, dense_TF[:, ::-1], dense_TF], axis=1).astype(np.float32)  # three of each score
    write_by_token(index_of(dense_TF), corpus, tmp_path / "table", kept=32)
    for token in range(5):
        expected = plain(dense_TF, corpus, token)[:32]
        # The file's float32 shares may order equals otherwise, so the features are compared as sets and by score.
        found = ByToken.open(tmp_path / "table").driven_by([token])
        assert set(found["feature"]) == {row[0] for row in expected}
        np.testing.assert_allclose(found["score"], [row[3] for row in expected], rtol=1e-6)


def test_the_file_is_the_same_whatever_the_pieces(tmp_path: Path) -> None:
    dense_TF, corpus = example()
    for name, pieces in (("one", 9), ("many", 2)):
        write_by_token(index_of(dense_TF), corpus, tmp_path / name, kept=4, features_at_a_time=pieces)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "many").read_bytes()


def test_of_several_tokens_each_feature_counts_by_its_best(tmp_path: Path) -> None:
    dense_TF, corpus = example()
    write_by_token(index_of(dense_TF), corpus, tmp_path / "table", kept=9)
    table = ByToken.open(tmp_path / "table")
    found = table.driven_by([2, 3, 99])
    best: dict[int, tuple[float, int]] = {}
    for token in (2, 3):
        for feature, _, _, score in plain(dense_TF, corpus, token):
            best[feature] = max(best.get(feature, (0.0, 0)), (score, token))
    assert dict(zip(found["feature"], found["token"], strict=True)) == {f: token for f, (_, token) in best.items()}
    assert found["score"].is_monotonic_decreasing
    assert table.driven_by([99]).empty
    assert table.driven_by([]).columns.tolist() == ["feature", "token", "share", "fires", "score"]


def test_an_index_without_activations_has_no_rows(tmp_path: Path) -> None:
    corpus = corpus_of([[0, 1, 2]])
    assert write_by_token(index_of(np.zeros((3, 4))), corpus, tmp_path / "table") == 0
    assert ByToken.open(tmp_path / "table").driven_by([1]).empty


def test_a_file_that_is_something_else_is_named(tmp_path: Path) -> None:
    path = tmp_path / "by_token.safetensors"
    with pytest.raises(UserError, match=r"by_token\.safetensors"):
        ByToken.open(path)
    path.write_bytes(b"\x00" * 20)
    with pytest.raises(UserError, match=r"by_token\.safetensors"):
        ByToken.open(path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"share": np.zeros(2)}, "an array has the wrong type"),
        ({"fires": np.zeros(1, np.float32)}, "do not fit the rows"),
    ],
)
def test_arrays_of_another_type_or_length_are_refused(tmp_path: Path, change: dict[str, np.ndarray], said: str) -> None:
    arrays = {
        "tokens": np.array([4], np.int32),
        "pointers": np.array([0, 2]),
        "features": np.array([7, 1], np.int32),
        "share": np.ones(2, np.float32),
        "fires": np.ones(2, np.float32),
    }
    save_file(arrays, tmp_path / "whole", {"format": ByToken.FORMAT})
    assert ByToken.open(tmp_path / "whole").driven_by([4])["feature"].tolist() == [1, 7]
    save_file(arrays | change, tmp_path / "other", {"format": ByToken.FORMAT})
    with pytest.raises(UserError, match=rf"other is not a table by token .*{said}.*; delete it and index again"):
        ByToken.open(tmp_path / "other")


class Spelt(Corpus):
    """A corpus whose tokens read like given texts."""

    def __init__(self, texts: list[str], counts: list[int]) -> None:
        made = corpus_of([np.repeat(np.arange(len(texts)), counts).tolist()])
        super().__init__(made.tokens, made.offsets, made.documents, made.texts)
        self._read = texts

    def token_text(self, token: int) -> str:
        return self._read[token]


def test_a_typed_text_finds_its_tokens() -> None:
    corpus = Spelt([" the", "The", "the", "\n", " theory", " ", "·"], [5, 2, 3, 1, 4, 1, 1])
    names = TokenNames(corpus, np.arange(7, dtype=np.int32))
    assert names.find("the") == [0, 2, 1]
    assert names.find(" THE ") == [0, 2, 1]
    assert names.find("·the") == [0]
    assert names.find("⏎") == [3]
    assert names.find("\n") == [3]
    assert names.find("·") == [5, 6]  # a space and a dot read the same
    assert names.find("nowhere") == []
    assert names.like("th") == [0, 4, 2, 1]
    assert names.like("th", 2) == [0, 4]


def test_tokens_that_read_the_same_are_one(tmp_path: Path) -> None:
    dense_TF, corpus = example()
    spelt = Spelt(["a", "b", "a", "c", "b", *"defghijk"], [1] * 13)
    same = np.array([0, 1, 0, 3, 1, *range(5, 13)])
    corpus.token_text = spelt.token_text  # type: ignore[method-assign]
    merged = Corpus(same[corpus.tokens].astype(np.int32), corpus.offsets, corpus.documents, corpus.texts)
    for name, own in (("read", corpus), ("numbered", merged)):
        write_by_token(index_of(dense_TF), own, tmp_path / name, kept=9)
    assert (tmp_path / "read").read_bytes() == (tmp_path / "numbered").read_bytes()
