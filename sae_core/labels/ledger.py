"""Read and write labels within one transaction that has locked the run; record every change in the history.

A version is the number of a change. An undo restores the result of an earlier change. When a later undo asks whether
anybody has changed the label since, the restored result counts as that earlier change. A person can therefore take back
several steps, one after another. A redo takes back an undo in the same way, and its result counts as the restored step.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, Row, delete, func, insert, select, update

from sae_core.foundation.errors import UserError
from sae_core.labels.fields import Value
from sae_core.labels.records import WRITTEN, Conflict, Copy, Edit, Kind, Label, Saved, Source, now, require_fit
from sae_core.labels.schema import history, labels, steps

_AT_ONCE = 500
"""The largest number of values in one query, since databases limit it."""
_Key = tuple[str, int]


@dataclass(frozen=True, slots=True)
class _Move:
    """One change: the old label, the new label, and for an undo or redo the change whose result is restored."""

    old: Label | None
    new: Label | None
    previous: int
    author: str
    time: str
    restores: int | None = None

    @property
    def place(self) -> Label:
        """The new or the old label, whichever exists, to read ensemble and feature from."""
        place = self.old or self.new
        assert place is not None, "a change from nothing to nothing"
        return place


class Ledger:
    """The labels of one run within a transaction.

    Args:
        connection: A connection that is within a transaction.
        run: The run's name in the database.
    """

    def __init__(self, connection: Connection, run: str) -> None:
        self._connection, self._run = connection, run

    def labels(self, keys: Iterable[_Key]) -> dict[_Key, Label]:
        """The labels of those features that have one."""
        found = {}
        for ensemble, features in _by_ensemble(keys):
            query = select(labels).where(*self._of(labels, ensemble), labels.c.feature.in_(features))
            found.update({label.key: label for label in map(label_from, self._connection.execute(query))})
        return found

    def versions(self, ensemble: str, features: Iterable[int]) -> dict[int, int]:
        """The number of the last change of each feature that was ever labelled."""
        return {feature: version for (_, feature), version in self._versions((ensemble, f) for f in features).items()}

    def step(self, number: int) -> Row[Any] | None:
        """A step of this run."""
        query = select(steps).where(steps.c.run == self._run, steps.c.id == number)
        return self._connection.execute(query).one_or_none()

    def save(
        self, edits: Sequence[Edit], author: str, kind: Kind, text: str, copies: Mapping[_Key, Sequence[Copy]]
    ) -> Saved:
        """Make all edits, or none; see `LabelStore.save`."""
        wanted = {edit.wanted.key: edit for edit in edits}
        there, versions = self.labels(wanted), self._versions(wanted)
        moves, clashing = [], []
        for key, edit in wanted.items():
            old, version = there.get(key), versions.get(key, 0)
            if edit.wanted.empty if old is None else old.values == edit.wanted.values:
                continue
            if edit.seen is not None and edit.seen != version:
                clashing.append((edit.wanted, old, version))
                continue
            new = None if edit.wanted.empty else edit.wanted
            require_fit(edit.wanted)  # unchanged texts may be longer, since older versions accepted them
            moves.append(_Move(old, new, version, edit.wanted.author or author, edit.wanted.time))
        if clashing:
            return Saved(None, conflicts=tuple(self._conflicts(clashing)))
        given = list(self._given(copies, moves, author))
        followers = self._followers([*moves, *given], author)
        step, versions = self._write([*moves, *given, *followers], author, kind, text)
        return Saved(step, len(moves), len(given), len(followers), versions=versions)

    def _given(self, copies: Mapping[_Key, Sequence[Copy]], moves: Sequence[_Move], author: str) -> Iterator[_Move]:
        """The changes that propagate labels to families after ``moves``; labels from other sources stay."""
        made = {move.place.key: move.new for move in moves}
        targets = {(ensemble, copy.feature) for (ensemble, _), family in copies.items() for copy in family}
        there = self.labels({*copies, *targets})
        versions, done = self._versions(targets), {*made}
        for (ensemble, feature), family in copies.items():
            source = made.get((ensemble, feature), there.get((ensemble, feature)))
            if source is None or not source.label:
                raise UserError(f"Feature {feature} of {ensemble} has no label to give to others; write one first.")
            for copy in family:
                key = (ensemble, copy.feature)
                old = there.get(key)
                is_own = old is not None and (old.source is None or old.source.feature != feature)
                is_there = old is not None and old.spreading == source.spreading
                if is_own or is_there or key in done or copy.feature == feature:
                    continue
                done.add(key)
                new = Label.by(author, ensemble, (copy.feature, copy.member, copy.latent), source.spreading)
                origin = Source(feature, source.member, source.latent, round(copy.score, 4))
                yield _Move(old, replace(new, source=origin), versions.get(key, 0), author, new.time)

    def take_back(self, step: Row[Any], author: str) -> tuple[int, int, int | None]:
        """Take back a step or an undo; see `LabelStore.undo` and `LabelStore.redo`.

        Returns:
            (number of labels that are again as before the step, number of labels that stay because somebody has
            changed them since, number of the new step or None if nothing changed).
        """
        made = self._changes(history.c.step == step.id)
        keys = [(row.ensemble, row.feature) for row in made.values()]
        there, versions = self.labels(keys), self._versions(keys)
        near = made | self._changes_numbered({*versions.values(), *(row.previous for row in made.values())})
        targets = {number: _effective(near, row.previous) for number, row in made.items()}
        before = self._changes_numbered(targets.values())
        moves, left, time = [], 0, now()
        for number, row in made.items():
            key = (row.ensemble, row.feature)
            if _effective(near, versions[key]) != _effective(near, number):
                left += 1
                continue
            old, target = there.get(key), targets[number]
            result = before[target] if target else None
            new = label_from(result, "new_") if result is not None and result.new_label is not None else None
            if old or new:
                author_then, time_then = (new.author, new.time) if new else (author, time)
                moves.append(_Move(old, new, versions[key], author_then, time_then, restores=target))
        followers = self._followers(moves, author)
        self._mark([step.id], undone=1)
        kind: Kind = "redo" if step.kind == "undo" else "undo"
        if kind == "redo" and moves:
            # What an undo has restored (its followers restore nothing) was made by the step that it took back.
            self._mark({before[targets[number]].step for number, row in made.items() if row.restores is not None})
        written, _ = self._write([*moves, *followers], author, kind, f"{step.kind} {step.id}")
        return len(moves), left, written

    def _mark(self, numbers: Iterable[int], *, undone: int = 0) -> None:
        these = (steps.c.run == self._run) & steps.c.id.in_(sorted(numbers))
        self._connection.execute(update(steps).where(these).values(undone=undone))

    def _followers(self, moves: Sequence[_Move], author: str) -> list[_Move]:
        """The changes of propagated labels that nobody has edited, and that therefore follow their source."""
        known, found, sources = {move.place.key for move in moves}, [], {move.place.key: move.new for move in moves}
        while sources:
            copies: list[Label] = []
            for ensemble, features in _by_ensemble(sources):
                query = select(labels).where(*self._of(labels, ensemble), labels.c.source.in_(features))
                copies += map(label_from, self._connection.execute(query))
            changed: dict[_Key, Label | None] = {}
            for copy in copies:
                assert copy.source is not None, "asked for by its source"
                source = sources[copy.ensemble, copy.source.feature]
                if copy.key not in known and (source is None or source.spreading != copy.spreading):
                    known.add(copy.key)
                    keeps = source is not None and bool(source.label)
                    taken: dict[str, Any] = source.spreading if source else {}
                    new = replace(copy, **taken, author=author, time=now()) if keeps else None
                    changed[copy.key] = new
                    found.append(_Move(copy, new, copy.version, author, now()))
            sources = changed
        return found

    def _write(self, moves: Sequence[_Move], author: str, kind: str, text: str) -> tuple[int | None, dict[_Key, int]]:
        """Make changes as one step; return its number (None without changes) and the new versions."""
        if not moves:
            return None, {}
        step, first = self._next(steps), self._next(history)
        row = {"run": self._run, "id": step, "kind": kind, "author": author, "time": now(), "text": text}
        self._connection.execute(insert(steps).values(**row, labels=len(moves), undone=0))
        changes, rows = [], []
        for number, move in enumerate(moves, first):
            place = {"ensemble": move.place.ensemble, "feature": move.place.feature}
            # A removal may not know the feature's number within the member, so read it from the removed label.
            place |= {"run": self._run, "member": move.place.member, "latent": move.place.latent}
            origin = _source_columns(move.new.source if move.new else None)
            made: dict[str, Any] = {"id": number, "step": step, "previous": move.previous, "restores": move.restores}
            made |= _columns("old_", move.old) | _columns("new_", move.new)
            changes.append({**place, **origin, **made, "author": move.author, "time": move.time})
            if move.new:
                who = {"author": move.new.author, "time": move.new.time, "version": number}
                rows.append({**place, **origin, **move.new.values, **who})
        self._connection.execute(insert(history), changes)
        for ensemble, features in _by_ensemble(move.place.key for move in moves):
            self._connection.execute(delete(labels).where(*self._of(labels, ensemble), labels.c.feature.in_(features)))
        if rows:
            self._connection.execute(insert(labels), rows)
        return step, {move.place.key: number for number, move in enumerate(moves, first)}

    def _conflicts(self, clashing: Sequence[tuple[Label, Label | None, int]]) -> Iterator[Conflict]:
        changes = self._changes_numbered(version for _, _, version in clashing)
        by_step = {row.step for row in changes.values()} - {None}
        names = {}
        for part in _chunks(sorted(by_step)):
            query = select(steps.c.id, steps.c.author).where(steps.c.run == self._run, steps.c.id.in_(part))
            names.update({row.id: row.author for row in self._connection.execute(query)})
        for wanted, theirs, version in clashing:
            change = changes.get(version)
            author = names.get(change.step, change.author) if change else ""
            yield Conflict(wanted, theirs, version, author, change.time if change else "")

    def _versions(self, keys: Iterable[_Key]) -> dict[_Key, int]:
        found = {}
        for ensemble, features in _by_ensemble(keys):
            query = (
                select(history.c.feature, func.max(history.c.id).label("last"))
                .where(*self._of(history, ensemble), history.c.feature.in_(features))
                .group_by(history.c.feature)
            )
            found.update({(ensemble, row.feature): row.last for row in self._connection.execute(query)})
        return found

    def _changes(self, condition: Any) -> dict[int, Row[Any]]:
        query = select(history).where(history.c.run == self._run, condition).order_by(history.c.id)
        return {row.id: row for row in self._connection.execute(query)}

    def _changes_numbered(self, numbers: Iterable[int]) -> dict[int, Row[Any]]:
        found: dict[int, Row[Any]] = {}
        for part in _chunks(sorted(set(numbers))):
            found.update(self._changes(history.c.id.in_(part)))
        return found

    def _next(self, table: Any) -> int:
        query = select(func.max(table.c.id)).where(table.c.run == self._run)
        return int(self._connection.execute(query).scalar() or 0) + 1

    def _of(self, table: Any, ensemble: str) -> tuple[Any, Any]:
        return table.c.run == self._run, table.c.ensemble == ensemble


def label_from(row: Row[Any], prefix: str = "") -> Label:
    """Build a label from a row of the table of labels, or with a prefix from a change."""
    texts: dict[str, Any] = values_from(row, prefix)
    place = {name: getattr(row, name) for name in ("ensemble", "member", "latent", "feature")}
    version = 0 if prefix else row.version
    return Label(**place, **texts, author=row.author, time=row.time, source=source_from(row), version=version)


def values_from(row: Row[Any], prefix: str = "") -> dict[str, Value]:
    """What people wrote, from the columns with a prefix. A column has no value where the row is older than it."""
    found = {name: getattr(row, f"{prefix}{name}") for name in WRITTEN}
    return {name: WRITTEN[name].empty if value is None else value for name, value in found.items()}


def source_from(row: Row[Any]) -> Source | None:
    """Build the source of the label in a row; None if the label was not propagated."""
    if row.source is None:
        return None
    return Source(row.source, row.source_member, row.source_latent, float(row.score))


def _columns(prefix: str, label: Label | None) -> dict[str, Value]:
    return {f"{prefix}{name}": value for name, value in (label.values if label else dict.fromkeys(WRITTEN)).items()}


def _source_columns(source: Source | None) -> dict[str, Any]:
    values = (source.feature, source.member, source.latent, source.score) if source else (None,) * 4
    return dict(zip(("source", "source_member", "source_latent", "score"), values, strict=True))


def _effective(changes: dict[int, Row[Any]], number: int) -> int:
    """The change whose result stands after change ``number``: the restored change if there is one, else ``number``."""
    row = changes.get(number)
    return number if row is None or row.restores is None else int(row.restores)


def _by_ensemble(keys: Iterable[_Key]) -> Iterator[tuple[str, Sequence[int]]]:
    """Yield each ensemble with some of its features, as many as fit into one query."""
    features: dict[str, list[int]] = defaultdict(list)
    for ensemble, feature in keys:
        features[ensemble].append(feature)
    for ensemble, numbers in features.items():
        for part in _chunks(numbers):
            yield ensemble, part


def _chunks(values: Sequence[int]) -> Iterator[Sequence[int]]:
    return (values[start : start + _AT_ONCE] for start in range(0, len(values), _AT_ONCE))
