"""What rows were asked for and what was got, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sae_core.foundation.settings.run_settings import RunSettings

_PARTS = (("train", "training"), ("index", "indexed"), ("evaluation", "held-out"))


def asked_and_got(settings: RunSettings, facts: Mapping[str, Any]) -> str:
    """One line: what the arrays are, how many rows were asked for and got, and by what they are held out."""
    if "rows" not in facts:
        return ""
    asked = settings.data
    parts = [f"{facts[f'{key}_tokens']:,} of {getattr(asked, f'{key}_tokens'):,} {name} rows" for key, name in _PARTS]
    by = f"{facts['evaluation_documents']:,} of {facts['groups']:,} groups are held out"
    if facts["held_out_by"] == "block":
        by = "No groups are told apart, so blocks of neighbouring rows are held out"
        if facts.get("one_group"):
            by = "There is one group alone, so blocks of its rows are held out, which are of the same kind"
    how = (
        "read from where they lie" if not facts["unpacked"] else "unpacked into the run, as they do not lie row by row"
    )
    return (
        f"Arrays of {facts['rows']:,} rows of {facts['d_in']:,} numbers ({facts['dtype']}), {how}: "
        f"{', '.join(parts)}. {by}."
    )


def what_is_short(settings: RunSettings, facts: Mapping[str, Any]) -> str:
    """What is left out, since it was not asked for, and whether the axes look exchanged."""
    said = []
    rows, used = facts.get("rows", 0), facts.get("train_tokens", 0) + facts.get("evaluation_tokens", 0)
    if rows > used:
        said.append(
            f"{rows - used:,} of the {rows:,} rows are not used; raise data.train_tokens or data.evaluation_tokens to "
            "use them."
        )
    if 0 < rows < facts["d_in"]:
        said.append(
            f"There are fewer rows ({rows:,}) than numbers in a row ({facts['d_in']:,}); if the axes of the arrays are "
            "exchanged, transpose them."
        )
    return " ".join(said)
