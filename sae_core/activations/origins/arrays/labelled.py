"""The labels of a run's rows, as they are kept in the run."""

from __future__ import annotations

import pandas as pd

from sae_core.foundation.files.whole_files import read_table
from sae_core.foundation.run import Run


def read_labels(run: Run) -> pd.DataFrame | None:
    """The labels of all rows, those for training first; None where there is no table of rows.

    Raises:
        UserError: If the file is damaged.
    """
    path = run.corpus.row_labels
    return read_table(path) if path.exists() else None
