"""Suggested labels against plain dictionaries: every chosen set is the best one, and every count is right."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from itertools import chain, combinations

import numpy as np
import pytest
from hand_made import corpus_of, index_of

from sae_core.activations.corpus import Corpus
from sae_core.activations.origins.text.shown import show_alone
from sae_core.activations.origins.text.token_texts import TokenTexts
from sae_core.analysis.suggestions import suggest
from sae_core.analysis.suggestions import suggest_loops as loops
from sae_core.analysis.suggestions.suggest import suggest_labels

VOCABULARY = 9


class Plain:
    """What the loops do, with sets and dictionaries."""

    def __init__(self, corpus: Corpus, learned: np.ndarray) -> None:
        self.tokens, self.learned = corpus.tokens.tolist(), learned
        self.begins = corpus.offsets[corpus.document_of(np.arange(len(corpus)))].tolist()

    def around(self, position: int, reach: int) -> set[int]:
        if reach == 0:
            return {self.tokens[position]}
        return set(self.tokens[max(self.begins[position], position - reach) : position])

    def counts(self, positions: Iterable[int], reach: int) -> Counter[int]:
        return Counter(chain.from_iterable(self.around(position, reach) for position in positions))

    def best(self, hits: Counter[int], holds: Counter[int], fires: int, most: int) -> tuple[float, set[int]]:
        """Every set of at most ``most`` tokens is tried."""
        able = sorted(token for token in hits if hits[token] >= loops.LEAST_HITS)
        sets = chain.from_iterable(combinations(able, size) for size in range(1, most + 1))
        scored = [(2 * sum(hits[t] for t in s) / (fires + sum(holds[t] for t in s)), s) for s in sets]
        score, words = max(scored, key=lambda one: one[0], default=(0.0, ()))
        return score, set(words)

    def rule(self, places: list[int]) -> tuple[int, float, set[int], set[int]]:
        """(kind, F1, words, others) for a feature that fires at ``places``."""
        learned = [place for place in range(len(self.tokens)) if self.learned[place]]
        fires = [place for place in places if self.learned[place]]
        found, token_words = (loops.NONE, 0.0, set(), set()), set()
        for kind, reach, most in ((1, 0, loops.MOST), (2, 1, loops.MOST), (3, loops.REACH, 1)):
            score, words = self.best(self.counts(fires, reach), self.counts(learned, reach), len(fires), most)
            token_words = words if kind == loops.TOKEN else token_words
            found = (kind, score, words, set()) if score > found[1] else found
        hits, holds = ([p for p in some if self.tokens[p] in token_words] for some in (fires, learned))
        for kind, reach, most in ((4, 1, loops.MOST), (5, loops.REACH, 1)):
            score, words = self.best(self.counts(hits, reach), self.counts(holds, reach), len(fires), most)
            found = (kind, score, token_words, words) if score > found[1] + 0.02 else found
        return found

    def holds(self, kind: int, words: set[int], others: set[int], position: int) -> bool:
        if kind == loops.NONE:
            return False
        reach = {loops.TOKEN: 0, loops.FOLLOWS: 1, loops.CONTEXT: loops.REACH}
        if kind in reach:
            return bool(words & self.around(position, reach[kind]))
        before = self.around(position, 1 if kind == loops.TOKEN_FOLLOWS else loops.REACH)
        return self.tokens[position] in words and bool(others & before)


def random_case(seed: int) -> tuple[Corpus, np.ndarray]:
    """Documents of a few tokens, and features that fire by rules of each kind with some noise."""
    generator = np.random.default_rng(seed)
    corpus = corpus_of([generator.integers(0, VOCABULARY, generator.integers(0, 40)).tolist() for _ in range(60)])
    plain = Plain(corpus, np.ones(len(corpus), bool))
    rules = [(1, {2, 5}, set()), (2, {3}, set()), (3, {7}, set()), (4, {1, 2}, {4, 6}), (5, {0, 8}, {3})]
    codes = []
    for kind, words, others in rules * 2:
        fires = np.array([plain.holds(kind, words, others, place) for place in range(len(corpus))])
        keep = generator.random(len(corpus)) < generator.uniform(0.3, 1)
        codes.append(fires & keep | (generator.random(len(corpus)) < generator.uniform(0, 0.1)))
    codes += [generator.random(len(corpus)) < 0.2, np.zeros(len(corpus), bool), np.arange(len(corpus)) < 3]
    return corpus, np.stack(codes, axis=1).astype(np.float32)


@pytest.mark.parametrize("seed", range(4))
def test_rules_are_the_best_of_all_and_measured_on_the_other_half(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suggest, "BLOCK", 5)
    corpus, dense = random_case(seed)
    learned = suggest._half(corpus, len(corpus), seed).astype(bool)
    plain, table = Plain(corpus, learned), suggest_labels(index_of(dense), corpus, seed=seed)
    assert len(table) == dense.shape[1]
    for row, code in zip(table.to_dict("records"), dense.T, strict=True):
        places = np.flatnonzero(code).tolist()
        held = [place for place in places if not learned[place]]
        assert row["fires"] == len(held)
        kind, score, words, others = plain.rule(places)
        where = [p for p in range(len(corpus)) if not learned[p] and plain.holds(kind, words, others, p)]
        both = len(set(where) & set(held))
        if len(places) - len(held) < suggest.LEAST_FIRES or score < suggest.LEAST_SCORE or both == 0:
            assert (row["suggestion"], row["kind"], row["holds"], row["both"]) == ("", "", 0, 0)
            assert np.isnan([row["precision"], row["recall"], row["lift"]]).all()
            continue
        assert row["kind"] == suggest.KINDS[kind]
        assert {int(number) for number in re.findall(r"“#(\d+)”", row["suggestion"])} == words | others
        assert (row["holds"], row["both"]) == (len(where), both)
        assert row["precision"] == pytest.approx(both / len(where))
        assert row["recall"] == pytest.approx(both / len(held))
        assert row["lift"] == pytest.approx(both / len(where) / (len(held) / (~learned).sum()))
    assert set(table["kind"]) == set(suggest.KINDS)


def test_the_same_seed_holds_out_the_same_half() -> None:
    corpus, dense = random_case(0)
    index = index_of(dense)
    first, again, other = (suggest_labels(index, corpus, seed=seed) for seed in (1, 1, 2))
    assert first.equals(again)
    assert not first.equals(other)


def test_a_few_long_documents_are_halved_by_stretches() -> None:
    corpus = corpus_of([list(range(5000))])
    learned = suggest._half(corpus, 5000, 0)
    assert 0.4 < learned.mean() < 0.6
    assert all(len(set(stretch.tolist())) == 1 for stretch in np.array_split(learned[:4864], 19))
    many = corpus_of([[1, 2, 3]] * 40)
    assert suggest._half(many, 120, 0).sum() == 60


def test_of_a_frequent_token_a_sample_is_enough() -> None:
    # The feature fires on token 1 after token 2; token 1 stands at far more places than are looked at.
    generator = np.random.default_rng(0)
    corpus = corpus_of([generator.choice([1, 1, 1, 2, 3, 4], 400).tolist() for _ in range(60)])
    before = np.concatenate([[0], corpus.tokens[:-1]])
    before[corpus.offsets[:-1]] = 0
    fires = (corpus.tokens == 1) & (before == 2)
    row = suggest_labels(index_of(fires[:, None].astype(np.float32)), corpus).iloc[0]
    assert (corpus.tokens == 1).sum() > 4 * loops.SAMPLE
    assert (row["suggestion"], row["precision"], row["recall"]) == ("“#1” after “#2”", 1.0, 1.0)


def test_a_rule_that_is_never_right_on_what_is_held_out_is_not_suggested() -> None:
    corpus = corpus_of([[1, 2, 3, 4]] * 40)
    learned = suggest._half(corpus, 160, 0).astype(bool)
    fires = np.where(learned, corpus.tokens == 1, corpus.tokens == 2)
    row = suggest_labels(index_of(fires[:, None].astype(np.float32)), corpus, seed=0).iloc[0]
    assert (row["suggestion"], row["kind"], row["fires"], row["holds"], row["both"]) == ("", "", 20, 0, 0)


def test_nothing_indexed_and_a_corpus_of_no_text_suggest_nothing() -> None:
    empty = suggest_labels(index_of(np.zeros((0, 3))), corpus_of([[]]))
    assert empty["suggestion"].tolist() == [""] * 3
    assert empty["precision"].isna().all()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (" the", "“·the”"),
        ("the", "“the”"),
        ("<b>", "“<b>”"),
        ("\n\n    ", "“⏎⏎····”"),
        (" ", "“·”"),
        ("\t", "“→”"),
        ("", "“∅”"),
        ("a\u200b", "“a\\u200b”"),
    ],
)
def test_tokens_read_well(text: str, said: str) -> None:
    assert suggest._readable(text) == said


class Spelt(TokenTexts):
    """Tokens that read like given texts; several may read the same."""

    TEXTS = (" the", "the", "the", "of", " of", "\u00a0of", "a", "b")

    def text(self, token: int) -> str:
        return self.TEXTS[token]


def applied_as_read(suggestion: str, kind: str, corpus: Corpus) -> np.ndarray:
    """Where a rule holds by its words alone, as somebody would apply it who has only read it."""
    shown = [show_alone(corpus.token_text(token)) for token in corpus.tokens.tolist()]
    begins = corpus.offsets[corpus.document_of(np.arange(len(corpus)))].tolist()
    first, _, second = suggestion.removeprefix("what follows ").partition(" after ")
    words, others = set(re.findall("“(.+?)”", first)), set(re.findall("“(.+?)”", second))
    holds = np.zeros(len(corpus), bool)
    for place, own in enumerate(shown):
        reach = 1 if kind in ("follows", "token follows") else loops.REACH
        before = set(shown[max(begins[place], place - reach) : place])
        if kind == "token":
            holds[place] = own in words
        elif kind == "follows":
            holds[place] = bool(before & words)
        elif kind == "context":
            holds[place] = bool(before & others)
        else:
            holds[place] = own in words and bool(before & others)
    return holds


@pytest.mark.parametrize("seed", range(3))
def test_figures_are_those_of_the_rule_as_it_reads(seed: int) -> None:
    """Also where a feature fires on one of several tokens that read the same, or only on the one with a space."""
    generator = np.random.default_rng(seed)
    made = corpus_of([generator.integers(0, 8, generator.integers(5, 40)).tolist() for _ in range(80)])
    corpus = Corpus(made.tokens, made.offsets, made.documents, Spelt())
    before = np.concatenate([[-1], corpus.tokens[:-1]])
    before[corpus.offsets[:-1]] = -1
    fires = [corpus.tokens == 0, corpus.tokens == 1, np.isin(corpus.tokens, (3, 4)), before == 5]
    fires += [(corpus.tokens == 6) & (before == 2)]
    dense = np.stack([code & (generator.random(len(code)) < 0.9) for code in fires], axis=1).astype(np.float32)
    table = suggest_labels(index_of(dense), corpus, seed=seed)
    held = ~suggest._half(corpus, len(corpus), seed).astype(bool)
    assert table["suggestion"].iloc[0] == "“·the”"
    assert table["suggestion"].iloc[1] == "“the”"
    for row, code in zip(table.to_dict("records"), dense.T > 0, strict=True):
        assert row["suggestion"]
        holds = applied_as_read(row["suggestion"], row["kind"], corpus)
        assert row["holds"] == (holds & held).sum()
        assert row["precision"] == pytest.approx(code[holds & held].mean())
        assert row["recall"] == pytest.approx(holds[code & held].mean())
    # Half of what reads “the” is another token, on which the feature does not fire.
    assert table["precision"].iloc[1] < 0.7 < table["precision"].iloc[0]
