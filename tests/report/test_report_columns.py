"""Columns of figures: each has its own definition, even if several headings are alike."""

from __future__ import annotations

import re
from html import unescape

import pytest

from sae_core.analysis.atoms.figures import TABLE as DICTIONARY
from sae_core.analysis.cost.figures import TABLE as COST
from sae_core.analysis.figures import OVERVIEW, REPORTED, SWEPT
from sae_core.analysis.reconstruction.figures import TABLE as RECONSTRUCTION
from sae_core.analysis.stability.figures import RETRAINED, STAGES
from sae_core.analysis.truth.figures import COMPARED
from sae_core.analysis.truth.figures import TABLE as TRUTH
from sae_core.foundation.figures import Figure
from sae_core.report.tables import by_ensemble

TABLES = {
    "reconstruction": RECONSTRUCTION,
    "dictionary": DICTIONARY,
    "retrained": RETRAINED,
    "cost": COST,
    "truth": TRUTH,
    "stages": STAGES,
}
DEFINED = {
    "recall": "Share of all true features that get an atom of their own",
    "recall_cap": "The largest recall and MCC",
    "mcc": "Sum of the |cosines| of atoms matched one to one, over all true features",
    "precision": "Share of the atoms, without copies, that are true features",
    "precision_alive": "Precision of those atoms",
    "f1": "Mean over the true features that fire of the F1",
    "mmcs": "Mean over features of the best cosine with an atom of one other",
    "pooled": "Mean over features of the best cosine with any atom of all others",
    "pw_mcc": "Mean cosine of atoms matched one to one",
    "null_pooled": "Pooled stability of random dictionaries",
    "null_best": "MMCS of random dictionaries",
    "null_matched": "One-to-one stability of random dictionaries",
    "diversity_fraction": "Diverse features as a share",
    "relative_sparsity": "L0 as a share",
    "explained_variance_per_dimension": "Mean over dimensions",
    "tokens_per_second": "Training tokens of all members together over the time",
}
"""How the definitions of figures begin that once had another one's, or none."""


@pytest.mark.parametrize("columns", TABLES.values(), ids=TABLES)
def test_every_column_shown_has_its_own_definition(columns: tuple[Figure, ...]) -> None:
    figure = {"mean": 0.5, "low": None, "high": None}
    ensembles = {"single": {"figures": dict.fromkeys((shown.key for shown in columns), figure)}}
    page = by_ensemble({"ensembles": ensembles}, columns)
    heads = re.findall(r'<th(?: class="[^"]*")? title="([^"]*)">([^<]*)</th>', page)
    found = [(unescape(title), unescape(meaning)) for meaning, title in heads]
    assert found == [(shown.title, shown.definition) for shown in columns]
    meanings = [meaning for _, meaning in found]
    assert all(meanings)
    assert len(set(meanings)) == len(meanings)


def test_definitions_are_those_of_their_figures() -> None:
    for columns in (columns for columns in TABLES.values() if columns is not STAGES):
        for shown in columns:
            assert shown in REPORTED, shown.key
            last = shown.path.rpartition(".")[2]
            if shown.path.startswith("random."):
                assert shown.title == "random"
                assert shown.definition.startswith(f"{COMPARED[last].title} of a random dictionary")
            elif last in DEFINED:
                assert shown.definition.startswith(DEFINED[last]), shown.key
            if last.startswith("null_"):
                assert shown.title == "random"


def test_every_figure_is_declared_once_and_everything_shown_has_a_place() -> None:
    assert len({figure.key for figure in REPORTED}) == len(REPORTED)
    rows = [figure.row for figure in REPORTED if figure.row]
    assert len(set(rows)) == len(rows)
    assert all(figure.row and figure.definition for figure in OVERVIEW)
    assert all(figure.row for figure in SWEPT)
    # Lines of a known truth are those of the command truth, which reads no rows.
    assert all(figure.row for figure in REPORTED if figure.line and figure.source != "truth")
    assert all(figure.better in ("", "higher", "lower") for figure in REPORTED)
