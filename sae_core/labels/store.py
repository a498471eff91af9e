"""The labels of one run: read them, write them with optimistic locking, propagate them, undo and redo."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import pandas as pd
from sqlalchemy import Connection, Row, Select, Table, desc, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from sae_core.foundation import numbering
from sae_core.foundation.errors import UserError
from sae_core.labels import csv_file
from sae_core.labels.database import Server, SQLiteFile
from sae_core.labels.fields import Value, clean
from sae_core.labels.ledger import Ledger, label_from, source_from, values_from
from sae_core.labels.records import (
    COLUMNS,
    WRITTEN,
    Change,
    Copy,
    Edit,
    Kind,
    Label,
    Saved,
    Step,
    Undone,
    cells_of,
    require_distinct,
)
from sae_core.labels.schema import history, labels, runs, steps

_TAKING_BACK = ("undo", "redo")


class LabelStore:
    """The labels of one run. Threads, processes and, on a server, machines may share them.

    Args:
        path: The SQLite file of the run; the first label creates it.
        run_name: The run's name in the table and in the CSV file.
    """

    def __init__(self, path: Path, run_name: str) -> None:
        self.path, self.run_name = path, run_name
        self._database: SQLiteFile | Server = SQLiteFile(path, in_run=True)
        # A file in a run folder is copied and renamed with the folder, so the file does not name its run.
        self._run, self._created, self._is_known = "", "", False

    @classmethod
    def shared(cls, database: SQLiteFile | Server, run_name: str, *, identity: str = "", created: str = "") -> Self:
        """Open the labels of a run in a database that holds the labels of several runs.

        Args:
            database: The database, as `database_at` returns it.
            run_name: The run's name for people; it may change.
            identity: The run's identity, see `Run.identity`; by default the name identifies the run.
            created: The time at which the run was made. Labels that older versions stored under the run's name belong
                to this run if they give the same time. Without an identity, a run of the same name with another time
                is refused.
        """
        store = cls(getattr(database, "path", Path()), run_name)
        store._database, store._run, store._created = database, identity or run_name, created
        return store

    @property
    def is_shared(self) -> bool:
        """Whether the labels are in a database of several runs, and not in the run folder."""
        return self._run != ""

    @property
    def place(self) -> str:
        """The place of the labels for people: a path, or an address without its password."""
        return self._database.shown

    def at_once(self) -> AbstractContextManager[None]:
        """Let all reads of this thread in a block share one connection, until the thread writes."""
        return self._database.at_once()

    def get(self, ensemble: str, feature: int) -> Label | None:
        """The label of a feature, given by its number in the ensemble; None if it has no label."""
        found = self._rows(select(labels).where(labels.c.ensemble == ensemble, labels.c.feature == feature), labels)
        return label_from(found[0]) if found else None

    def all(self, ensemble: str | None = None) -> list[Label]:
        """All labels, or those of one ensemble, in the order of features."""
        query = select(labels) if ensemble is None else select(labels).where(labels.c.ensemble == ensemble)
        found = map(label_from, self._rows(query, labels))
        return sorted(found, key=lambda label: label.key)  # databases sort text in different ways

    def table(self) -> pd.DataFrame:
        """All labels with the columns `COLUMNS`."""
        table = pd.DataFrame([cells_of(one, self.run_name) for one in self.all()], columns=list(COLUMNS))
        sources = {f"source_{name}": "Int64" for name in numbering.COLUMNS}
        written = {name: kind.dtype for name, kind in WRITTEN.items()}
        return table.astype({**dict.fromkeys(numbering.COLUMNS, "int64"), **written, **sources, "score": "float64"})

    def versions(self, ensemble: str, features: Iterable[int]) -> dict[int, int]:
        """The version of each feature, labelled or not; 0 if the feature was never labelled."""
        wanted = sorted(set(features))
        with self._database.reading() as connection:
            found = Ledger(connection, self._key(connection)).versions(ensemble, wanted) if connection else {}
        return {feature: found.get(feature, 0) for feature in wanted}

    def revision(self) -> int:
        """A number that grows with every change of any label of the run."""
        return max((row[0] or 0 for row in self._rows(select(func.max(history.c.id)), history)), default=0)

    def set(
        self, ensemble: str, member: int, latent: int, feature: int, label: str, note: str = "", author: str = ""
    ) -> None:
        """Write the label of a feature over any other label; an empty label without a note removes the label.

        Args:
            ensemble: Name of the ensemble.
            member: Number of the member.
            latent: Number of the feature within the member.
            feature: Number of the feature in the ensemble.
            label: A few words.
            note: Anything longer.
            author: The person who writes.

        Raises:
            UserError: If the label cannot be written.
        """
        values: dict[str, Value] = {"label": label, "note": note}
        self.save([Edit(Label.by(author, ensemble, (feature, member, latent), values))], author=author)

    def delete(self, ensemble: str, feature: int, author: str = "") -> None:
        """Remove the label of a feature, if it has one.

        Raises:
            UserError: If the change cannot be written.
        """
        self.save([Edit(Label.by(author, ensemble, (feature, 0, 0), {}))], author=author)

    def save(
        self,
        edits: Sequence[Edit],
        *,
        author: str,
        kind: Kind = "edit",
        text: str = "",
        copies: Mapping[tuple[str, int], Sequence[Copy]] = MappingProxyType({}),
    ) -> Saved:
        """Write labels as one step, all or none.

        Labels that were propagated from the written ones change with them, unless somebody has edited them. If somebody
        else has changed one of the features after the person saw it, and to another label than the wanted one, nothing
        is written.

        Args:
            edits: The edits, one per feature.
            author: The person who makes the step.
            kind: The kind of the step.
            text: A detail of the step.
            copies: The features to which a label is then propagated, by ensemble and number of the labelled feature.
                Each copy records its source and match score. A feature with a label by a person, or from another
                source, keeps that label.

        Raises:
            UserError: If a feature has no label to propagate, two edits are of one feature, a text is too long, or the
                labels cannot be written.
        """
        cleaned = [Edit(edit.wanted.cleaned(), edit.seen) for edit in edits]
        require_distinct(edit.wanted for edit in cleaned)
        with self._writing() as ledger:
            return ledger.save(cleaned, clean(author), kind, clean(text), copies)

    def propagate(self, ensemble: str, feature: int, copies: Sequence[Copy], *, author: str) -> Saved:
        """Propagate a feature's label to others of its family, as `save` does, without an edit."""
        return self.save([], author=author, kind="family", copies={(ensemble, feature): copies})

    def last_step(self, author: str, among: Iterable[int] | None = None) -> Step | None:
        """The last step of an author that is not undone; ``among`` restricts the search to some steps."""
        return self._last(author, among, steps.c.kind.not_in(_TAKING_BACK), steps.c.undone == 0)

    def last_undo(self, author: str, among: Iterable[int] | None = None) -> Step | None:
        """The undo that an author can redo; None if it was redone, or if the author has made another step since."""
        taken_back = (steps.c.kind == "undo") & (steps.c.undone == 0)
        last = self._last(author, among, or_(steps.c.kind.not_in(_TAKING_BACK), taken_back))
        return last if last and last.kind == "undo" else None

    def _last(self, author: str, among: Iterable[int] | None, *conditions: Any) -> Step | None:
        query = select(steps).where(steps.c.author == clean(author), *conditions).order_by(desc(steps.c.id)).limit(1)
        found = self._rows(query if among is None else query.where(steps.c.id.in_(sorted(among))), steps)
        return _step(found[0]) if found else None

    def undo(self, author: str, number: int) -> Undone:
        """Undo a step of the same author, as a new step. Each label gets back its earlier text, author and time.

        A label that somebody has changed after the step stays as it is.

        Raises:
            UserError: If the author has no such step, or the step is already undone.
        """
        return self._take_back(author, number, "no step {} to take back", lambda kind: kind not in _TAKING_BACK)

    def redo(self, author: str, number: int) -> Undone:
        """Take back an undo of the same author, as a new step. Each label gets back its text, author and time.

        A label that somebody has changed after the undo stays as it is. The restored step can be undone again.

        Raises:
            UserError: If the author has no such undo, or the undo is already taken back.
        """
        return self._take_back(author, number, "taken back nothing as step {}", lambda kind: kind == "undo")

    def _take_back(self, author: str, number: int, fault: str, fits: Callable[[str], bool]) -> Undone:
        with self._writing() as ledger:
            row = ledger.step(number)
            if row is None or row.author != clean(author) or row.undone or not fits(row.kind):
                raise UserError(f"{author} has {fault.format(number)}; load the page again.")
            return Undone(_step(row), *ledger.take_back(row, clean(author)))

    def steps(self, limit: int = 50) -> list[Step]:
        """The latest steps of all authors, the latest first."""
        return [_step(row) for row in self._rows(select(steps).order_by(desc(steps.c.id)).limit(limit), steps)]

    def history(self, ensemble: str, feature: int) -> list[Change]:
        """All changes of a feature's label, the earliest first."""
        of_step = (steps.c.run == history.c.run) & (steps.c.id == history.c.step)
        chosen = (
            select(history, steps.c.kind.label("kind"), steps.c.author.label("step_author"))
            .select_from(history.outerjoin(steps, of_step))
            .where(history.c.ensemble == ensemble, history.c.feature == feature)
            .order_by(history.c.id)
        )
        return [
            Change(
                None if row.old_label is None else values_from(row, "old_"),
                None if row.new_label is None else values_from(row, "new_"),
                *(row.author, row.time, row.kind or "", row.step_author or "", source_from(row)),
            )
            for row in self._rows(chosen, history)
        ]

    def to_csv(self) -> str:
        """All labels as CSV; a cell that a spreadsheet would run as a formula begins with an apostrophe."""
        return csv_file.write_csv(self.all(), self.run_name)

    def _rows(self, query: Select[Any], table: Table) -> Sequence[Row[Any]]:
        """The rows of a query that belong to this run; none while nobody has written a label."""
        with self._database.reading() as connection:
            return connection.execute(query.where(table.c.run == self._key(connection))).all() if connection else ()

    def _key(self, connection: Connection) -> str:
        """The run's key in the database: its identity, or its name if an older version has written labels."""
        if self._run in ("", self.run_name) or self._is_known:
            return self._run
        query = select(runs.c.run, runs.c.created).where(runs.c.run.in_([self._run, self.run_name]))
        found = {row.run: row.created for row in connection.execute(query)}
        self._is_known = self._run in found
        is_ours = not self._is_known and bool(self._created) and found.get(self.run_name) == self._created
        return self.run_name if is_ours else self._run

    def _adopt(self, connection: Connection) -> None:
        """Replace the run's name, under which an older version has written labels, by the run's identity."""
        if self._key(connection) == self._run:
            return
        ours = (runs.c.run == self.run_name) & (runs.c.created == self._created)
        renamed = update(runs).where(ours).values(run=self._run, name=self.run_name)
        if connection.execute(renamed).rowcount:  # otherwise another process was faster
            for table in (labels, history, steps):
                mine = update(table).where(table.c.run == self.run_name)
                connection.execute(mine.values(run=self._run))

    @contextmanager
    def _writing(self) -> Iterator[Ledger]:
        """Yield the run's labels, locked against all other writers."""
        with self._database.writing() as connection:
            self._lock(connection)
            yield Ledger(connection, self._run)

    def _lock(self, connection: Connection) -> None:
        self._adopt(connection)
        query = select(runs.c.created).where(runs.c.run == self._run).with_for_update()
        created = connection.execute(query).scalar_one_or_none()
        if created is None:
            try:
                with connection.begin_nested():
                    connection.execute(insert(runs).values(run=self._run, name=self.run_name, created=self._created))
            except IntegrityError:
                pass  # another process was faster
            created = connection.execute(query).scalar_one()
        if self._created and created != self._created:
            raise UserError(
                f"{self.place} has labels of another run called {self.run_name!r}, made {created}; rename this run's "
                "folder."
            )


def _step(row: Row[Any]) -> Step:
    return Step(row.id, row.kind, row.author, row.time, row.text, row.labels, bool(row.undone))
