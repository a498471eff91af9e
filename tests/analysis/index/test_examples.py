"""Examples, quantiles, histogram and co-activation against plain Python over dense arrays."""

from __future__ import annotations

import numpy as np
import pytest
from hand_made import corpus_of, index_of

from sae_core.analysis.index.examples import co_active, histogram, quantile_examples, strongest, top_examples


def test_an_example_shows_the_window_within_its_document() -> None:
    corpus = corpus_of([[7, 7, 7], [10, 11, 12, 13, 14, 15], [8, 8]])
    dense = np.zeros((11, 2))
    dense[[4, 5, 9, 2], 1] = [0.5, 2.0, 1.0, 1.5]
    strongest_example, second, third = top_examples(index_of(dense), corpus, 1, window=2)
    assert (strongest_example.position, strongest_example.document, strongest_example.start) == (5, 1, 3)
    assert strongest_example.token_ids == [10, 11, 12, 13, 14]
    assert strongest_example.texts == ["#10", "#11", "#12", "#13", "#14"]
    assert strongest_example.values == [0.0, 0.5, 2.0, 0.0, 0.0]
    assert strongest_example.peak == 2.0
    assert strongest_example.metadata == {"name": "d1"}
    # At the edges of a document the window ends; nothing of the neighbours is shown.
    assert (second.position, second.token_ids, second.values) == (2, [7, 7, 7], [0.0, 0.0, 1.5])
    assert (third.position, third.token_ids) == (9, [8, 8])
    assert top_examples(index_of(dense), corpus, 0) == []


@pytest.mark.parametrize("documents", [3, 40, 400])
def test_top_examples_are_the_strongest_of_each_document(documents: int) -> None:
    generator = np.random.default_rng(0)
    lengths = generator.multinomial(1200, np.full(documents, 1 / documents))
    corpus = corpus_of([generator.integers(0, 10_000, length).tolist() for length in lengths])
    # Coarse values, so that many are equal.
    dense = np.round(generator.random((1200, 1)) * (generator.random((1200, 1)) < 0.8), 2)
    best_of_document: dict[int, int] = {}
    for position in sorted(range(1200), key=lambda place: (-dense[place, 0], place)):
        if dense[position, 0] > 0:
            best_of_document.setdefault(int(corpus.document_of(position)), position)
    expected = list(best_of_document.values())[:20]
    found = top_examples(index_of(dense), corpus, 0, count=20, window=3)
    assert [example.position for example in found] == expected
    assert [example.peak for example in found] == pytest.approx([dense[place, 0] for place in expected])


def test_one_loud_document_does_not_hide_the_others() -> None:
    corpus = corpus_of([list(range(2000)), [5000, 5001], [6000, 6001]])
    dense = np.full((2004, 1), 5.0)
    dense[2000:, 0] = [1.0, 2.0, 3.0, 1.0]
    found = top_examples(index_of(dense), corpus, 0, count=3)
    assert [example.position for example in found] == [0, 2002, 2001]


def test_near_identical_examples_are_shown_once() -> None:
    same = [1, 2, 3, 4, 5, 6, 7, 8, 9]
    almost = [0, *same[1:]]
    other = [1, 20, 30, 40, 5, 60, 70, 8, 9]
    corpus = corpus_of([same, same, almost, other])
    dense = np.zeros((36, 1))
    dense[[4, 13, 22, 31], 0] = [4.0, 3.0, 2.0, 1.0]
    index = index_of(dense)
    assert [e.document for e in top_examples(index, corpus, 0, window=8)] == [0, 3]
    assert [e.document for e in top_examples(index, corpus, 0, window=8, distinct=False)] == [0, 1, 2, 3]
    assert [e.document for e in top_examples(index, corpus, 0, window=8, distinct=False, count=2)] == [0, 1]


def test_strongest_is_a_stable_sort_cut_off() -> None:
    values = np.random.default_rng(0).integers(1, 9, 500).astype(np.float32)
    expected = sorted(range(500), key=lambda place: (-values[place], place))
    for wanted in (0, 1, 7, 100, 499, 500, 800):
        assert strongest(values, wanted).tolist() == expected[:wanted]


def test_quantiles_hold_equally_many_and_are_drawn_from_their_band() -> None:
    generator = np.random.default_rng(1)
    corpus = corpus_of([generator.integers(0, 10_000, 4).tolist() for _ in range(250)])
    dense = generator.random((1000, 2)).astype(np.float32) + 0.01
    index = index_of(dense)
    bands = quantile_examples(index, corpus, 1, quantiles=4, per_quantile=3)
    assert [band.number for band in bands] == [4, 3, 2, 1]
    for band, above in zip(bands[1:], bands[:-1], strict=True):
        assert band.high == above.low
    for band in bands:
        inside = (dense[:, 1] >= band.low) & (dense[:, 1] <= band.high)
        assert 249 <= inside.sum() <= 252
        assert len(band.examples) == 3
        assert len({example.document for example in band.examples}) == 3
        peaks = [example.peak for example in band.examples]
        assert peaks == sorted(peaks, reverse=True)
        assert all(band.low <= peak <= band.high for peak in peaks)
    assert bands[0].high == dense[:, 1].max()
    assert bands[-1].low == dense[:, 1].min()


def test_quantiles_follow_the_seed_and_survive_few_or_equal_values() -> None:
    generator = np.random.default_rng(2)
    corpus = corpus_of([generator.integers(0, 10_000, 5).tolist() for _ in range(200)])
    dense = np.zeros((1000, 3))
    dense[:, 0] = generator.random(1000) + 0.1
    dense[:, 1] = 2.0
    dense[7, 2] = 1.0
    index = index_of(dense)
    first, again = (quantile_examples(index, corpus, 0, seed=3) for _ in range(2))
    assert first == again
    assert first != quantile_examples(index, corpus, 0, seed=4)
    constant, single = (quantile_examples(index, corpus, feature) for feature in (1, 2))
    assert [(band.number, band.low, band.high, len(band.examples)) for band in constant] == [(5, 2.0, 2.0, 4)]
    assert [(band.number, [e.position for e in band.examples]) for band in single] == [(5, [7])]
    dense[:, 1] = 0
    assert quantile_examples(index_of(dense), corpus, 1) == []


def test_the_histogram_counts_every_value() -> None:
    values = np.array([0.1, 0.1, 1.0, 2.0, 4.0], np.float32)
    edges, counts = histogram(values, bins=4)
    assert edges.tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert counts.tolist() == [2, 1, 1, 1]
    edges, counts = histogram(np.array([], np.float32), bins=3)
    assert counts.tolist() == [0, 0, 0]
    assert np.all(np.diff(edges) > 0)


def test_co_active_is_the_product_of_the_firing_patterns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sae_core.analysis.index.examples._SCAN", 37)
    generator = np.random.default_rng(0)
    dense = generator.random((300, 12)) * (generator.random((300, 12)) < generator.random(12))
    dense[:, 5] = 0  # dead
    fires = (dense > 0).astype(np.int64)
    together = fires.T @ fires
    counts = fires.sum(axis=0)
    table = co_active(index_of(dense), 3, count=20)
    assert set(table["feature"]) == set(range(12)) - {3, 5}
    for row in table.to_dict("records"):
        other = int(row["feature"])
        assert row["together"] == together[3, other]
        assert row["share"] == pytest.approx(together[3, other] / counts[3])
        assert row["lift"] == pytest.approx(together[3, other] * 300 / (counts[3] * counts[other]))
    cosine = [together[3, f] / np.sqrt(counts[3] * counts[f]) for f in table["feature"]]
    assert cosine == sorted(cosine, reverse=True)
    assert len(co_active(index_of(dense), 3, count=4)) == 4
    assert co_active(index_of(dense), 5).empty
