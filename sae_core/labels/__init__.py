"""People's labels of features, in SQLite or on a server: several writers at once, history, undo."""

from sae_core.labels.csv_file import LARGEST_MB, parse_csv, read_label_file
from sae_core.labels.database import shown_address
from sae_core.labels.importing import ImportPlan, plan_import
from sae_core.labels.opening import check_address, labels_of
from sae_core.labels.records import (
    AUTHOR,
    COLUMNS,
    EMPTY,
    WRITTEN,
    Change,
    Conflict,
    Copy,
    Edit,
    Label,
    Saved,
    Source,
    Step,
    Undone,
)
from sae_core.labels.store import LabelStore

__all__ = [
    "AUTHOR",
    "COLUMNS",
    "EMPTY",
    "LARGEST_MB",
    "WRITTEN",
    "Change",
    "Conflict",
    "Copy",
    "Edit",
    "ImportPlan",
    "Label",
    "LabelStore",
    "Saved",
    "Source",
    "Step",
    "Undone",
    "check_address",
    "labels_of",
    "parse_csv",
    "plan_import",
    "read_label_file",
    "shown_address",
]
