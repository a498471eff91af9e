"""The figures of what is found of a known dictionary, beside random dictionaries that encode alike."""

from __future__ import annotations

from sae_core.analysis.reconstruction.figures import EXPLAINED_VARIANCE
from sae_core.analysis.shared.names_in_tables import PRECISION, RANDOM
from sae_core.analysis.stability.figures import random_of
from sae_core.foundation.figures import Figure, of_control, plain, spec

_TWIN = "a random dictionary of the same sizes that encodes alike"


def _found(name: str, title: str, definition: str, *, share: bool = True, said: str = "") -> tuple[Figure, Figure]:
    """A figure with an interval, and what random dictionaries reach in it."""
    line = title if title.isupper() else title.lower()
    own = Figure(
        *(f"truth.{name}", title, definition, plain(3)),
        share=share,
        better="higher",
        row=f"truth_{name}",
        line=line,
        terminal=spec(".3f"),
        swept=True,
        column=line,
        said=said,
        compared=bool(said),
    )
    return own, random_of(f"truth.{RANDOM}.{name}", title, _TWIN, share=share, line=f"  random {line}")


RECALL, RANDOM_RECALL = _found(
    "recall",
    "Recall",
    "Share of all true features that get an atom of their own at |cosine| ≥ 0.9",
    said="true features found",
)
MCC, RANDOM_MCC = _found(
    "mcc",
    "MCC",
    "Sum of the |cosines| of atoms matched one to one, over all true features: unmatched ones are 0",
    share=False,
)
PRECISE, RANDOM_PRECISE = _found(
    PRECISION, "Precision", "Share of the atoms, without copies, that are true features at |cosine| ≥ 0.9"
)
F1, RANDOM_F1 = _found(
    "f1",
    "F1",
    "Mean over the true features that fire of the F1 with which the best latent fires with each",
    said="F1 of their firing",
)
AT_MOST = Figure(
    key="truth.recall_cap",
    title="at most",
    definition="The largest recall and MCC that so many atoms allow: their number over that of the true features, at "
    "most 1",
    style=plain(3),
    spread=False,
)
OF_ALIVE = Figure(
    key="truth.precision_alive",
    title="of alive",
    definition="Precision of those atoms, without copies, that ever fire",
    style=plain(3),
    share=True,
    better="higher",
)
RANDOM_FOUND = (RANDOM_RECALL, RANDOM_MCC, RANDOM_PRECISE, RANDOM_F1)
TRUTH = (
    *(RECALL, AT_MOST, MCC, PRECISE, OF_ALIVE, F1, Figure(key="truth.uniqueness", share=True)),
    *RANDOM_FOUND,
)
COMPARED = {figure.path: figure for figure in (RECALL, MCC, PRECISE, F1)}
"""What is compared with one SAE, random dictionaries and random stages, by its name in the file."""
OF_CONTROL = tuple(
    of_control(
        figure,
        key=f"truth.control.{path}",
        row=f"control_{figure.row}",
        line=f"  {figure.line}, random stages",
        swept=True,
        column=f"  {figure.line}, random stages",
    )
    for path, figure in COMPARED.items()
)
"""The same of stage 1 and random stages, in the place of a boosted ensemble."""
SUMMARY = tuple(each for pair in zip(COMPARED.values(), OF_CONTROL, strict=True) for each in pair)
"""What the summary of a run and a sweep say: each figure, and behind it what random stages reach in it."""
TABLE = (
    *(RECALL, AT_MOST, RANDOM_RECALL, MCC, RANDOM_MCC, PRECISE, RANDOM_PRECISE, OF_ALIVE, F1, RANDOM_F1),
    EXPLAINED_VARIANCE,
)
