"""Features that people picked to be ablated in a task with a spurious attribute, kept in the run."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from sae_core.foundation import numbering
from sae_core.foundation.errors import UserError
from sae_core.foundation.files.spreadsheets import write_rows
from sae_core.foundation.files.whole_files import read_json, write_json
from sae_core.foundation.run import Run

FORMAT = 1
LONGEST = 80
"""Characters of a name."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What someone picked.

    Attributes:
        task: The task.
        method: The ensemble whose features these are.
        name: What the author calls the choice.
        author: Who made it; two authors may use one name.
        features: Global numbers of the features, ascending.
        fingerprint: Of the task's texts, as evaluation/spurious.json has it.
        created: When it was saved, UTC.
        figures: What came of it: accuracies and whatever else was known at the time.
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
    """Keep a choice, in place of an earlier one of the same task, method, name and author.

    Returns:
        It as it was kept: features sorted, each once, and the time.

    Raises:
        UserError: If the name is empty or too long, or no feature is picked.
    """
    name, author = choice.name.strip(), choice.author.strip() or "anonymous"
    if not name or len(name) > LONGEST:
        raise UserError(f"The name of a choice has 1 to {LONGEST} characters, not {len(name)}; give another one.")
    if not choice.features:
        raise UserError("No feature is picked; tick some before saving.")
    kept = Choice(
        task=choice.task,
        method=choice.method,
        name=name,
        author=author,
        features=tuple(sorted({int(feature) for feature in choice.features})),
        fingerprint=choice.fingerprint,
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        figures=dict(choice.figures),
    )
    run.require_there()
    # One file a choice: two people who save at the same time do not overwrite each other.
    write_json(run.spurious_choice(choice.task, _identity(kept)), {"format": FORMAT, **asdict(kept)})
    return kept


def choices(run: Run, task: str, method: str | None = None) -> list[Choice]:
    """The choices that were saved for a task, by name and author.

    Args:
        run: The run.
        task: The task.
        method: Only those of this ensemble.

    Raises:
        UserError: If a file is damaged.
    """
    found = [_read(path) for path in sorted(run.spurious_choices(task).glob("*.json"))]
    return sorted(
        (choice for choice in found if choice.task == task and method in (None, choice.method)),
        key=lambda choice: (choice.name.casefold(), choice.author.casefold(), choice.method),
    )


def delete_choice(run: Run, choice: Choice) -> None:
    """Remove a choice; nothing happens if it is gone already."""
    run.spurious_choice(choice.task, _identity(choice)).unlink(missing_ok=True)


def as_json(choice: Choice, rows: Sequence[Mapping[str, Any]] = ()) -> str:
    """A choice as JSON, with what is known of each of its features under ``evidence``."""
    content = {"format": FORMAT, **asdict(choice), "evidence": [dict(row) for row in rows]}
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def as_csv(choice: Choice, rows: Sequence[Mapping[str, Any]], widths: Sequence[int]) -> str:
    """A choice as CSV, one row a feature: what it belongs to, then what is known of the feature.

    Args:
        choice: What someone picked.
        rows: What is known of its features, each with its number in the ensemble as ``feature``.
        widths: Features of each member of the ensemble.
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


def _identity(choice: Choice) -> str:
    """A short hash of what a choice is found by."""
    by = json.dumps([choice.task, choice.method, choice.name.strip(), choice.author.strip()])
    return hashlib.sha256(by.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _read(path: Any) -> Choice:
    content = read_json(path)
    try:
        return Choice(
            task=str(content["task"]),
            method=str(content["method"]),
            name=str(content["name"]),
            author=str(content["author"]),
            features=tuple(int(feature) for feature in content["features"]),
            fingerprint=str(content.get("fingerprint", "")),
            created=str(content.get("created", "")),
            figures=dict(content.get("figures", {})),
        )
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path} is damaged; delete it and save the choice again.") from None
