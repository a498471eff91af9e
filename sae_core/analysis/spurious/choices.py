"""Store the features that people choose to ablate in a task with a spurious attribute."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from sae_core.foundation import numbering
from sae_core.foundation.errors import UserError
from sae_core.foundation.files.spreadsheets import write_rows
from sae_core.foundation.files.whole_files import read_json, write_json
from sae_core.foundation.run import Run

FORMAT = 1
LONGEST = 80
"""Largest number of characters of a name."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A person's choice of features.

    Attributes:
        task: The task.
        method: The ensemble of the features.
        name: The author's name for the choice.
        author: The person; two authors may use the same name for a choice.
        features: Numbers of the features in the ensemble, ascending.
        fingerprint: The fingerprint of the task's texts, as in evaluation/spurious.json.
        created: The time of saving, in UTC.
        figures: The result at that time: accuracies and other figures.
    """

    task: str
    method: str
    name: str
    author: str
    features: tuple[int, ...]
    fingerprint: str = ""
    created: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict)


def save_choice(run: Run, choice: Choice) -> Choice:
    """Store a choice, over an earlier choice of the same task, method, name and author.

    Returns:
        The stored choice, with sorted features, each once, and the time.

    Raises:
        UserError: If the name is empty or too long, or the choice has no features.
    """
    name, author = choice.name.strip(), choice.author.strip() or "anonymous"
    if not name or len(name) > LONGEST:
        raise UserError(f"The name of a choice has 1 to {LONGEST} characters, not {len(name)}; give another one.")
    if not choice.features:
        raise UserError("No feature is picked; tick some before saving.")
    features = tuple(sorted({int(feature) for feature in choice.features}))
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    kept = replace(choice, name=name, author=author, features=features, created=created)
    run.require_there()
    # Write one file per choice, so that two people who save at the same time do not overwrite each other.
    write_json(_file(run, kept), {"format": FORMAT, **asdict(kept)})
    return kept


def choices(run: Run, task: str, method: str | None = None) -> list[Choice]:
    """Read the choices that were saved for a task, sorted by name and author.

    Args:
        run: The run.
        task: The task.
        method: Read only choices of this ensemble.

    Raises:
        UserError: If a file is damaged.
    """
    found = [_read(path) for path in sorted(run.spurious_choices(task).glob("*.json"))]
    return sorted(
        (choice for choice in found if choice.task == task and method in (None, choice.method)),
        key=lambda choice: (choice.name.casefold(), choice.author.casefold(), choice.method),
    )


def delete_choice(run: Run, choice: Choice) -> None:
    """Remove a choice; a choice that is already gone is no error."""
    _file(run, choice).unlink(missing_ok=True)


def as_json(choice: Choice, rows: Sequence[Mapping[str, Any]] = ()) -> str:
    """A choice as JSON, with the evidence for each feature under ``evidence``."""
    content = {"format": FORMAT, **asdict(choice), "evidence": [dict(row) for row in rows]}
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def as_csv(choice: Choice, rows: Sequence[Mapping[str, Any]], widths: Sequence[int]) -> str:
    """A choice as CSV, one row per feature: the columns of the choice, then the evidence for the feature.

    Args:
        choice: The choice.
        rows: The evidence for the features, each with its number in the ensemble as ``feature``.
        widths: Number of features of each member of the ensemble.
    """
    keys = [key for key in dict.fromkeys(key for row in rows for key in row) if key not in numbering.COLUMNS]
    by_feature = {int(row["feature"]): row for row in rows}
    places = zip(*numbering.place_columns(choice.features, widths).values(), strict=True)
    return write_rows(
        ["task", "ensemble", "name", "author", *numbering.COLUMNS, *keys],
        [
            [
                *(choice.task, choice.method, choice.name, choice.author, *place),
                *(by_feature.get(feature, {}).get(key, "") for key in keys),
            ]
            for feature, place in zip(choice.features, places, strict=True)
        ],
        line_end="\r\n",
    )


def _file(run: Run, choice: Choice) -> Path:
    """The file of a choice, by a short hash that identifies the choice."""
    by = json.dumps([choice.task, choice.method, choice.name.strip(), choice.author.strip()])
    return run.spurious_choice(choice.task, hashlib.sha256(by.encode("utf-8", "surrogatepass")).hexdigest()[:16])


def _read(path: Path) -> Choice:
    content = read_json(path)
    try:
        texts = {key: str(content[key]) for key in ("task", "method", "name", "author")}
        later = {key: str(content.get(key, "")) for key in ("fingerprint", "created")}
        features = tuple(int(feature) for feature in content["features"])
        return Choice(**texts, **later, features=features, figures=dict(content.get("figures", {})))
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path} is damaged; delete it and save the choice again.") from None
