"""The declaration of an origin: where the activations of a run come from, and what that origin offers.

The origins themselves are the files of `sae_core.activations.origins`. Settings, the command line and the dashboard
read declarations, so neither this module nor an origin imports torch before it gathers something.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from pydantic import BaseModel, ConfigDict

from sae_core.foundation.errors import UserError
from sae_core.foundation.progress import Progress

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from sae_core.foundation.run import Run
    from sae_core.foundation.settings.run_settings import RunSettings


HELD_OUT, GROUP = "_held_out", "_group"
"""Columns of `Origin.labelled` that are no labels."""


class Words(NamedTuple):
    """What the rows of an origin are called where people read of them.

    Attributes:
        row: One row of activations.
        rows: Several of them.
        passage: What rows stand together in.
        passages: Several of these.
        whole: All of them together.
        judged: What has a concept or not.
        told_by: What a row reads like on its own, by which features are found and labels suggested.
        sought: An example of one that is sought.
        examples: The heading of the rows on which a feature fires.
        how_to_read: How to read these.
        shares: The heading of the labels of the passages in which a feature fires.
        halves: What the figures of a suggested label were measured on.
    """

    row: str = "token"
    rows: str = "tokens"
    passage: str = "passage"
    passages: str = "passages"
    whole: str = "text"
    judged: str = "text"
    told_by: str = "token"
    sought: str = "the, or ·the"
    examples: str = "Examples in context"
    how_to_read: str = (
        "Left: the activation at the outlined token; below: where the text comes from. One example a passage, and none "
        "whose tokens are nearly those of one above it."
    )
    shares: str = "Where its passages come from"
    halves: str = (
        "The rule was chosen on one half of the indexed documents and measured on the other half. The SAEs were "
        "trained on both, so on text of another kind it may do worse. · is a space: “·the” and “the” are different "
        "tokens."
    )


OF_TOKENS = Words()
"""The words of text."""


class Origin(BaseModel):
    """An origin of activations. A subclass is the declaration; its fields are the settings ``origin.…`` of a run.

    Attributes:
        kind: The name by which settings choose it, in a subclass ``Literal["…"] = "…"``.
        title: What activations come from, in words.
        old_name: What ``text.source`` and ``model.name`` are both called where settings do not name the origin.
        options: The options of the command line that choose this origin, and the field that each of them sets.
        by_default: Whether a run has it unless its settings say otherwise.
        shows_rows: Whether `gather` writes a corpus, which says what each row reads like, so that people can look at
            rows. An index needs one.
        reads_text: Whether there is a language model: any text can be read, and a loss and promoted tokens are defined.
        rows_are_independent: Whether rows that follow each other have no more in common than others, so that they need
            not be drawn from all over a cache.
        has_truth: Whether the true features are known, so that what is found of them can be scored.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    kind: str
    title: ClassVar[str]
    old_name: ClassVar[str] = ""
    options: ClassVar[Mapping[str, str]] = {}
    by_default: ClassVar[bool] = False
    shows_rows: ClassVar[bool] = True
    reads_text: ClassVar[bool] = False
    rows_are_independent: ClassVar[bool] = False
    has_truth: ClassVar[bool] = False

    def described(self, settings: RunSettings) -> str:
        """What SAEs are trained on, within a sentence: ``activations drawn from a known dictionary of …``."""
        return f"activations of {self.title}"

    def about(self, settings: RunSettings, facts: Mapping[str, Any]) -> tuple[str, str]:
        """How many rows were asked for and got, and what to do where they are too few; each may be empty.

        Args:
            settings: The run's.
            facts: What was recorded of the corpus; empty if there is none yet.
        """
        return "", ""

    def words(self, facts: Mapping[str, Any]) -> Words:
        """What its rows are called.

        Args:
            facts: What was recorded of the corpus.
        """
        return OF_TOKENS

    def labels_texts(self, settings: RunSettings) -> bool:
        """Whether every document says what it is, so that concepts can be detected without a file of labels."""
        return False

    def labelled(self, run: Run) -> pd.DataFrame | None:
        """The labels of a run's rows, where rows have labels of their own; else None.

        Returns:
            One row a row of activations, those of the training cache first and then those of the cache for evaluation:
            `HELD_OUT`, `GROUP` (what it belongs to; rows of one are alike) and one column a label, with texts and ""
            for none.
        """
        return None

    def decided_by(self, settings: RunSettings) -> Any:
        """The settings that decide the activations, beside those of ``data``, as JSON."""
        return self.model_dump(mode="json")

    def shared_by(self, settings: RunSettings) -> Any:
        """`decided_by` without what may differ between runs that `gather` serves together."""
        return self.decided_by(settings)

    def data_of(self, run: Run) -> Any:
        """What tells the activations of a run from others: runs in which it is equal learn from the same data."""
        return run.facts("corpus").get("fingerprint")

    def gather(self, runs: Sequence[Run], progress: Progress) -> None:
        """Write the corpus and the activation caches of runs, and record both stages; what is finished is skipped.

        Rows of the cache ``evaluation`` are held out: no document or group has rows in both caches. The facts of the
        corpus say the dimension (``d_in``) and, with `shows_rows`, a ``fingerprint`` of all rows.

        Args:
            runs: Runs in which `shared_by` is equal.
            progress: Told how far it is.

        Raises:
            UserError: If the activations cannot be had, or are too few.
        """
        raise NotImplementedError

    def stream(self, run: Run, cache: Callable[[], Any], device: str) -> Any:
        """What training draws from with ``data.storage`` stream: a `training.source.Source`.

        Args:
            run: The run.
            cache: Opens the cache of those training rows that are kept.
            device: Where a model runs.
        """
        raise UserError(f"Activations of {self.title} cannot be streamed; set data.storage to disk.")

    def drawn(self, run: Run, rows: int) -> Tensor | None:
        """The first training rows [rows, D] where none is kept on disk, as they can be had at any time; else None."""
        return None

    def require_text(self, run: Run) -> None:
        """Refuse a run with which no text can be read.

        Raises:
            UserError: One sentence that says so.
        """
        if not self.reads_text:
            raise UserError(f"The activations of {run.path} come from {self.title}; no text can be read with it.")

    def require_rows(self, run: Run) -> None:
        """Refuse a run whose rows nobody can look at.

        Raises:
            UserError: One sentence that says so.
        """
        if not self.shows_rows:
            raise UserError(f"The activations of {run.path} come from {self.title}; there is no text to browse.")

    def require_truth(self, run: Run) -> None:
        """Refuse a run whose true features nobody knows.

        Raises:
            UserError: One sentence that says so.
        """
        if not self.has_truth:
            raise UserError(f"The activations of {run.path} come from {self.title}, not from a known dictionary.")
