"""The origin of activations that lie in files as arrays: a row is whatever the table beside them says it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from sae_core.activations.origins.arrays.settings import ArraySettings
from sae_core.foundation.origin import Words
from sae_core.foundation.progress import Progress

if TYPE_CHECKING:
    import pandas as pd

    from sae_core.foundation.run import Run
    from sae_core.foundation.settings.run_settings import RunSettings


class Arrays(ArraySettings):
    """Rows of arrays stay in their files and are read from there; a table says what each of them is."""

    kind: Literal["arrays"] = "arrays"
    """Activations are rows of arrays in files."""
    title: ClassVar[str] = "arrays in files"
    options: ClassVar[Mapping[str, str]] = {"activations": "files", "rows": "rows", "images": "images"}

    def described(self, settings: RunSettings) -> str:
        """The files, and the table beside them."""
        names = [Path(name).name for name in self.files]
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        table = f", with the table {Path(self.rows).name}" if self.rows else ""
        return f"the activations of {', '.join(names[:3])}{more}{table}"

    def about(self, settings: RunSettings, facts: Mapping[str, Any]) -> tuple[str, str]:
        """How many rows were asked for and got, and by what they are held out."""
        from sae_core.activations.origins.arrays.asked import asked_and_got, what_is_short

        return asked_and_got(settings, facts), what_is_short(settings, facts)

    def words(self, facts: Mapping[str, Any]) -> Words:
        """Rows, which make up stretches where they are a series."""
        return _SERIES if "position" in facts.get("roles", {}) else _ROWS

    def gather(self, runs: Sequence[Run], progress: Progress) -> None:
        """Check every number of the arrays, and write down which rows each run has."""
        from sae_core.activations.origins.arrays.gathering import gather

        for run in runs:
            gather(run, self, progress)

    def stream(self, run: Run, cache: Callable[[], Any], device: str) -> Any:
        """The rows in their files, from which training reads anyway."""
        return cache()

    def labelled(self, run: Run) -> pd.DataFrame | None:
        """The labels of all rows, as the table beside the arrays gives them."""
        from sae_core.foundation.files.whole_files import read_table

        path = run.corpus.row_labels
        return read_table(path) if path.exists() else None


_ROWS = Words(
    *("row", "rows", "row", "rows", "rows", "row", "label", "as in the table"),
    examples="Examples",
    how_to_read="The activation, what the row is, and where it comes from.",
    shares="What its rows are labelled",
    halves="The rule was chosen on one half of the indexed groups and measured on the other half. The SAEs were "
    "trained on both, so on rows of another kind it may do worse.",
)
_SERIES = _ROWS._replace(
    passage="stretch",
    passages="stretches",
    how_to_read="The activation of the row that is grey, and the rows around it with the activation drawn under them. "
    "One example a stretch of rows with the same labels.",
    shares="What its stretches are labelled",
)
