"""What the map page looks at: one ensemble's atoms, two of its members, or two ensembles on a joint map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dashboard.shared.reads.opening import EnsembleInfo
from dashboard.views.map import data
from sae_core.foundation.run import Run

Side = tuple[Run, EnsembleInfo]


@dataclass(frozen=True, slots=True)
class Look:
    """A map and the panels that show parts of it.

    Attributes:
        points: All its atoms.
        sides: The ensembles that they are of, in order.
        panels: Title, first point and the one after the last, of one panel or of two side by side.
        parts: What points are called: title, first point, the point that has number 0 there, and the member.
        word: What a member is called.
        key: The widget's key.
        title: What the page writes above.
        definition: What one has to know to read it.
        members: The two members that are shown side by side.
    """

    points: data.MapPoints
    sides: Sequence[Side]
    panels: Sequence[tuple[str, int, int]]
    parts: Sequence[tuple[str, int, int, int]]
    word: str
    key: str
    title: str
    definition: str = ""
    members: tuple[int, ...] = ()

    def place(self, point: int) -> tuple[Run, EnsembleInfo, int]:
        """(run, ensemble, number of the feature) of a point."""
        first = 0
        for run, info in self.sides:
            if point < first + info.features:
                return run, info, point - first
            first += info.features
        raise IndexError(f"point {point} of {first}")


def whole_look(run: Run, info: EnsembleInfo, points: data.MapPoints) -> Look:
    """All members in one panel."""
    return Look(
        points=points,
        sides=[(run, info)],
        panels=[("", 0, info.features)],
        parts=_members(info),
        word=info.member_word,
        key=f"map-{run.path.name}-{info.name}",
        title=f"{info.features:,} features",
    )


def member_look(run: Run, info: EnsembleInfo, points: data.MapPoints, left: int, right: int) -> Look:
    """Two members side by side: the same map, each panel with the points of one."""
    members = (left, right)
    return Look(
        points=points,
        sides=[(run, info)],
        panels=[
            (f"{info.member_word} {member}", info.feature(member, 0), info.feature(member, info.widths[member]))
            for member in members
        ],
        parts=_members(info),
        word=info.member_word,
        key=f"map-{run.path.name}-{info.name}-members",
        title=f"{info.member_word.capitalize()} {left} and {info.member_word} {right}",
        definition="Both panels show the map of all members, each with the points of one: the same place is the same "
        "direction. They move and zoom together; the ring on the other side is the most similar feature there.",
        members=members,
    )


def joint_look(points: data.MapPoints, sides: Sequence[Side], names: Sequence[str]) -> Look:
    """Two ensembles side by side on a joint map."""
    (left_run, left), (right_run, right) = sides
    titles = [left.title if left_run.path == right_run.path else f"{left_run.path.name} · {left.title}", names[1]]
    parts = [
        (f"{title}, {text}", start + first, base, member)
        for title, (_, info), base in zip(titles, sides, (0, left.features), strict=True)
        for first in (base,)
        for text, start, _, member in _members(info)
    ]
    return Look(
        points=points,
        sides=sides,
        panels=[(titles[0], 0, left.features), (titles[1], left.features, left.features + right.features)],
        parts=parts,
        word=left.member_word,
        key=f"map-{left_run.path.name}-{left.name}-with-{right_run.path.name}-{right.name}",
        title=f"{titles[0]} and {titles[1]}",
        definition="One UMAP of the atoms of both, so the same place is the same direction on both sides. Panels move "
        "and zoom together; the ring on the other side is the most similar feature there.",
    )


def _members(info: EnsembleInfo) -> list[tuple[str, int, int, int]]:
    return [(f"{info.member_word} {member}", info.feature(member, 0), 0, member) for member in range(info.members)]
