"""Generated biographies: only marked characters show the gender, and professions share no phrase."""

from __future__ import annotations

import itertools
import re
from collections import Counter

import numpy as np
import pytest

from sae_core.analysis.spurious.biographies import (
    COMMON,
    PROFESSIONS,
    PRONOUNS,
    Biography,
    make_biographies,
)
from sae_core.analysis.spurious.biographies import NAMES as LISTED
from sae_core.foundation.errors import UserError

NAMES = [names.split(", ") for names in LISTED]
GENDERED = ({*NAMES[0], *PRONOUNS[0].values()}, {*NAMES[1], *PRONOUNS[1].values()})


@pytest.fixture(scope="module")
def biographies() -> list[Biography]:
    return make_biographies(["nurse", "professor"], 600, seed=1)


def words(text: str) -> list[str]:
    return re.findall(r"[A-Za-z]+", text)


def without_marked(one: Biography) -> str:
    """The text with every marked stretch taken out."""
    kept, end = "", 0
    for start, stop in one.gendered:
        kept, end = kept + one.text[end:start] + "_", stop
    return kept + one.text[end:]


def test_there_are_as_many_of_each_cell_all_different_and_the_same_for_a_seed(biographies: list[Biography]) -> None:
    cells = Counter((one.profession, one.woman) for one in biographies)
    assert set(cells.values()) == {600}
    assert len(cells) == 4
    assert len({one.text for one in biographies}) == 2400
    assert make_biographies(["nurse", "professor"], 600, seed=1) == biographies
    assert make_biographies(["nurse", "professor"], 600, seed=2) != biographies


def test_exactly_names_and_pronouns_are_marked(biographies: list[Biography]) -> None:
    for one in biographies:
        marked = [one.text[start:stop] for start, stop in one.gendered]
        assert len(marked) >= 2
        assert all(word in GENDERED[one.woman] or word.lower() in GENDERED[one.woman] for word in marked), marked
        left = {word.lower() for word in words(without_marked(one))}
        assert not left & {word.lower() for word in GENDERED[0] | GENDERED[1]}
        assert "{" not in one.text
        assert one.gendered == tuple(sorted(one.gendered))
    assert not {*NAMES[0]} & {*NAMES[1]}


def test_no_other_word_tells_the_gender(biographies: list[Biography]) -> None:
    counts = [Counter(), Counter()]
    for one in biographies:
        counts[one.woman].update({word.lower() for word in words(without_marked(one))})
    for word in counts[0] | counts[1]:
        men, women = counts[0][word], counts[1][word]
        # Of some 400 words the largest of such deviations is about 3.
        assert abs(men - women) / np.sqrt(max(men + women, 1)) < 4.5, word
    marked = [Counter(), Counter()]
    for one in biographies:
        marked[one.woman].update({one.text[start:stop].lower() for start, stop in one.gendered})
    assert not set(marked[0]) & set(marked[1])
    # No name stands for all of its gender.
    assert max(marked[woman][name.lower()] for woman in (0, 1) for name in NAMES[woman]) < 0.05 * 1200


def test_professions_share_no_phrase() -> None:
    for one, other in itertools.combinations(PROFESSIONS.values(), 2):
        assert list(one) == list(other) == ["work", "thing", "place", "skill"]
        for part in one:
            mine, theirs = one[part].split(", "), other[part].split(", ")
            assert not {*mine} & {*theirs}
            assert len({*mine}) == len(mine) >= 8
    neutral = {word.lower() for key in ("hobby", "companion") for word in words(COMMON[key])}
    assert not neutral & {"man", "woman", "husband", "wife", "brother", "sister", "son", "daughter", "mother", "father"}


def test_an_unknown_profession_is_refused() -> None:
    with pytest.raises(UserError, match="'pilot'; choose from professor, nurse"):
        make_biographies(["nurse", "pilot"], 2, seed=0)
