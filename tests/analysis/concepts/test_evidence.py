"""Evidence for features in the texts of a task: correlations with words against NumPy, and the strongest texts."""

from __future__ import annotations

import numpy as np
import pytest

from sae_core.analysis.concepts.evidence import Words, strongest

TEXTS = ["He runs", "she runs a mile", "She sleeps", "he sleeps", "the he-man", "she, she!"]


def test_correlations_are_pearsons_with_the_presence_of_a_word() -> None:
    words = Words(TEXTS)
    coefs = np.random.default_rng(0).random((len(TEXTS), 3))
    found = words.telling(coefs, count=10, least=-1.0)
    for column, telling in zip(coefs.T, found, strict=True):
        assert {each.word for each in telling} == {"he", "she", "runs", "sleeps"}  # others occur once
        for each in telling:
            present = [each.word in text.lower().replace("-", " ").replace(",", " ").split() for text in TEXTS]
            present[-1] = each.word == "she"
            assert each.correlation == pytest.approx(np.corrcoef(column, present)[0, 1])
        assert [each.correlation for each in telling] == sorted((each.correlation for each in telling), reverse=True)


def test_words_that_go_with_a_feature_come_first_and_weak_ones_not_at_all() -> None:
    says_she = np.array([0, 1, 1, 0, 0, 2.0])
    constant = np.full(6, 3.3)
    first, second = Words(TEXTS).telling(np.stack([says_she, constant], axis=1), count=2, least=0.3)
    assert [each.word for each in first] == ["she"]
    assert second == []
    assert Words(["?", "!"]).telling(np.ones((2, 1))) == [[]]


def test_strongest_texts_are_of_the_rows_asked_for_and_fire() -> None:
    coefs = np.array([5.0, 1.0, 0.0, 3.0, 3.0, 0.0])
    assert strongest(coefs, np.array([1, 2, 3, 4, 5]), count=3).tolist() == [3, 4, 1]
    assert strongest(coefs, np.array([2, 5])).tolist() == []
