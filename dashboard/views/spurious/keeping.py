"""Choices of features to ablate: saved in the run by name and author, loaded again, exported."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import streamlit as st

from dashboard.shared.faults import callback
from dashboard.shared.look.cards import plain
from dashboard.views.spurious import data
from dashboard.views.spurious.bench import Bench, labels_of
from sae_core.analysis.spurious.choices import Choice, as_csv, as_json, choices, delete_choice, save_choice
from sae_core.foundation.errors import UserError
from sae_core.foundation.numbering import place_of
from sae_core.foundation.numbers import whole

FORMATS = {"csv": "text/csv", "json": "application/json"}


def keeping(bench: Bench) -> None:
    """Save, export, load and delete."""
    task = str(bench.facts["task"])
    name = st.text_input("Name", key=f"{bench.key}|name", max_chars=80, placeholder="gendered words")
    st.button(
        "Save in the run", key=f"{bench.key}|save", on_click=_save, args=(bench,), disabled=not bench.ticked.features
    )
    if bench.ticked.said:
        st.caption(plain(bench.ticked.said))
        bench.ticked.said = ""
    current = _choice(bench, name or "unnamed")
    for ending, mime in FORMATS.items():
        st.download_button(
            f"Export as {ending.upper()}",
            data=_exported(bench, current, ending),
            file_name=f"{task}-{bench.method}.{ending}",
            mime=mime,
            key=f"{bench.key}|{ending}",
            on_click="ignore",
            disabled=not bench.ticked.features,
        )
    _saved(bench)


def _saved(bench: Bench) -> None:
    run, task = bench.here.run, str(bench.facts["task"])
    try:
        saved = choices(run, task, bench.method)
    except UserError as error:
        st.caption(plain(str(error)))
        return
    if not saved:
        st.caption("Nothing is saved for this task and ensemble yet.")
        return
    place = st.selectbox(
        "Saved", range(len(saved)), format_func=lambda at: _said(saved[at]), key=f"{bench.key}|saved-{len(saved)}"
    )
    one = saved[place]
    if one.fingerprint and one.fingerprint != bench.facts["fingerprint"]:
        st.caption("It was made with other texts or ensembles; its features may mean something else now.")
    st.button("Load", key=f"{bench.key}|load", on_click=_load, args=(bench, one))
    st.button("Delete", key=f"{bench.key}|delete", on_click=callback(delete_choice), args=(run, one))


def _exported(bench: Bench, choice: Choice, ending: str) -> Callable[[], str]:
    """Makes the text when it is asked for, and not at every tick."""

    def made() -> str:
        rows = evidence_rows(bench, choice.features)
        if ending == "json":
            return as_json(choice, rows)
        return as_csv(choice, rows, bench.widths)

    return made


def _said(choice: Choice) -> str:
    return f"{choice.name} · {choice.author} · {whole(len(choice.features))} features"


def _choice(bench: Bench, name: str) -> Choice:
    work, picked = bench.ready.work, sorted(bench.ticked.features)
    outcome = work.ablate(picked)
    figures = {
        "seed": bench.seed,
        "target": outcome.target,
        "spurious": outcome.spurious,
        "worst_group": outcome.worst_group,
        "scr": work.scr(outcome),
        "untouched_target": bench.ready.before.target,
        "oracle_target": bench.ready.best.target,
    }
    task, fingerprint = str(bench.facts["task"]), str(bench.facts["fingerprint"])
    return Choice(task, bench.method, name, bench.here.author, tuple(picked), fingerprint, "", figures)


@callback
def _save(bench: Bench) -> None:
    try:
        save_choice(bench.here.run, _choice(bench, st.session_state[f"{bench.key}|name"]))
    except (UserError, OSError) as error:
        bench.ticked.said = f"It could not be saved. {error}"
    else:
        bench.ticked.said = "Saved in the run folder."


@callback
def _load(bench: Bench, choice: Choice) -> None:
    bench.ticked.put([feature for feature in choice.features if feature < bench.ready.work.features])


def evidence_rows(bench: Bench, features: Sequence[int]) -> list[dict[str, Any]]:
    """What is known of features, for a file."""
    found = data.evidence(bench.ready, bench.method, features)
    labels = labels_of(bench)
    return [
        {
            **place_of(each.feature, bench.widths)._asdict(),
            "label": labels.get(each.feature, ""),
            "score": each.score,
            "difference": each.difference,
            "effect": each.effect,
            "marked": "" if each.marked is None else each.marked,
            "words": " ".join(word.word for word in each.words),
        }
        for each in found
    ]
