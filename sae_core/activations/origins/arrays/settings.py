"""What settings say of activations that lie in files as arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, model_validator

from sae_core.foundation.origin import Origin
from sae_core.foundation.settings import bounds


def _whole_path(given: str) -> str:
    """A path that means the same from wherever the program is called."""
    try:
        return str(Path(given).expanduser().absolute())
    except RuntimeError:
        raise ValueError("there is no home directory; give the whole path") from None


AnyPath = Annotated[bounds.Name, AfterValidator(_whole_path)]


class ArraySettings(Origin):
    """Which files, and which columns of the table beside them."""

    files: tuple[AnyPath, ...] = ()
    """Files of activations, one a row: .npy, .npz, .safetensors, .parquet, .arrow, or folders of these; repeatable."""
    rows: AnyPath | None = None
    """Table (.csv, .tsv, .jsonl, .parquet) with one row for each activation, in the same order."""
    images: AnyPath | None = None
    """Folder under which the images lie that the table names."""
    field: bounds.Name | None = None
    """Which array, tensor or column of lists of a file holds the activations, where there are several."""
    id: bounds.Name | None = None
    """Column that names each row; by default the column called id, if there is one."""
    group: bounds.Name | None = None
    """Column of what rows belong to, such as a document, patient or machine; rows of a group are held out together. By
    default the column called group."""
    position: bounds.Name | None = None
    """Column of the time or place of a row within its group, which makes rows a series. By default the column called
    position or time."""
    text: bounds.Name | None = None
    """Column of the text that a row is of; by default the column called text."""
    image: bounds.Name | None = None
    """Column of the path of a row's image, under the folder origin.images; by default the column called image."""
    signal: bounds.Name | None = None
    """Column of what is drawn of a series: a number a row or, in Parquet, a list of numbers."""
    labels: tuple[bounds.Name, ...] | None = None
    """Columns that label rows; by default all others that have 2 to 40 different values. Tokens stand in other runs
    where the first one does here."""

    @model_validator(mode="after")
    def _files_are_some(self) -> Self:
        if not self.files:
            raise ValueError("it names no file of activations; give --activations FILE")
        return self
