"""What pages that write labels share: saving, with a choice where somebody was faster, undo and redo, what happened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import streamlit as st

from dashboard.components import label_drafts
from dashboard.shared import label_tables, visitor
from dashboard.shared.address import Here
from dashboard.shared.faults import callback
from dashboard.shared.look.cards import plain
from dashboard.shared.reads import label_store
from sae_core.foundation.errors import UserError
from sae_core.foundation.numbers import whole
from sae_core.labels import Conflict, Copy, Edit, Saved
from sae_core.labels.records import Kind
from sae_core.report.pieces.cards import section

_SAID, _PENDING, RELOAD = "labels-said", "labels-pending", "labels-reload"
_ONE_BY_ONE = 1
"""As many conflicts are shown as cards; more as a table."""


Families = Mapping[tuple[str, int], Sequence[Copy]]
"""By ensemble and feature, the other features that its label is given to."""
_NO_FAMILIES: Families = {}


@dataclass(frozen=True, slots=True)
class _Pending:
    """Edits that wait for a choice."""

    run: str  # its identity
    edits: Sequence[Edit]
    conflicts: Sequence[Conflict]
    kind: Kind
    text: str
    copies: Families


def save(
    here: Here,
    edits: Sequence[Edit],
    *,
    kind: Kind = "edit",
    text: str = "",
    copies: Families = _NO_FAMILIES,
) -> Saved | None:
    """Write labels as one step, or keep them until a person has chosen; None if they cannot be written."""
    try:
        saved = label_store.labels(here.run).save(edits, author=here.author, kind=kind, text=text, copies=copies)
    except UserError as error:
        say(str(error), good=False)
        return None
    if saved.conflicts:
        st.session_state[_PENDING] = _Pending(here.run.identity, list(edits), saved.conflicts, kind, text, copies)
    else:
        visitor.remember(_where(here), saved.step)
    return saved


def _where(here: Here) -> visitor.Place:
    return label_store.labels(here.run).place, here.run.identity


def say(text: str, *, good: bool = True) -> None:
    """Say something at the next run of the page."""
    st.session_state[_SAID] = (good, text)


def said() -> None:
    """What there is to say. Its place is always taken, so that what is below keeps its identity."""
    message = st.session_state.pop(_SAID, None)
    place = st.empty()
    if message is not None:
        (place.success if message[0] else place.error)(plain(message[1]))


def labels_text(count: int) -> str:
    """A number of labels in words."""
    return f"{whole(count)} label{'' if count == 1 else 's'}"


def reload_forms() -> None:
    """Let forms show what is saved, in place of what was typed."""
    st.session_state[RELOAD] = st.session_state.get(RELOAD, 0) + 1


def undo_and_redo(here: Here, *, key: str) -> None:
    """A button that takes back one's own last step, whatever it was, and one that makes it again."""
    mine = visitor.steps(_where(here)) if here.author == visitor.NOBODY else None
    store = label_store.labels(here.run)
    step, undo = store.last_step(here.author, mine), store.last_undo(here.author, mine)
    st.button(
        "Undo",
        icon=":material/undo:",
        key=f"{key}-undo",
        disabled=step is None,
        help=f"Take back your last step: {label_tables.step_text(step)}" if step else "You have changed nothing yet",
        on_click=_undo,
        args=(here, step.number if step else 0),
    )
    st.button(
        "Redo",
        icon=":material/redo:",
        key=f"{key}-redo",
        disabled=undo is None,
        help=f"Make again what you took back: {label_tables.step_text(undo)}"
        if undo
        else "You have taken back nothing since your last change",
        on_click=_undo,
        args=(here, undo.number if undo else 0),
        kwargs={"again": True},
    )


@callback
def _undo(here: Here, number: int, *, again: bool = False) -> None:
    store = label_store.labels(here.run)
    try:
        undone = (store.redo if again else store.undo)(here.author, number)
    except UserError as error:
        say(str(error), good=False)
        return
    visitor.remember(_where(here), undone.number)
    reload_forms()
    left = f"; {whole(undone.left)} changed by others since then stay" if undone.left else ""
    say(f"{'Made again' if again else 'Taken back'}: {label_tables.step_text(undone.step)}{left}.")


def pending(here: Here) -> bool:
    """Show what somebody else has changed meanwhile, both texts, and let people choose; False if there is nothing."""
    waiting: _Pending | None = st.session_state.get(_PENDING)
    if waiting is None or waiting.run != here.run.identity:
        return False
    count = len(waiting.conflicts)
    text = "Nothing of yours is saved yet. Look at both texts and choose."
    with st.container(border=True, key="labels-conflict"):
        first = waiting.conflicts[0].wanted
        where = f"{first.ensemble} {first.feature}" if count == 1 else f"{whole(count)} labels"
        title = f"Somebody was faster at {where}"
        st.html(section(title, text))
        if count <= _ONE_BY_ONE:
            one = waiting.conflicts[0]
            st.html(label_tables.two_texts(one.wanted, one.theirs, one.author, one.time))
            chosen: Sequence[Conflict] = [one]
        else:
            pairs = [(one.wanted, one.theirs, one.author) for one in waiting.conflicts]
            ticked = choose(pairs, key=f"conflicts-{hash(tuple(one.version for one in waiting.conflicts))}")
            chosen = [one for one, is_chosen in zip(waiting.conflicts, ticked, strict=True) if is_chosen]
        with st.container(horizontal=True):
            st.button("Keep what is there", key="labels-keep", on_click=_decide, args=(here, waiting, ()))
            name = "Save mine" if count <= _ONE_BY_ONE else f"Save mine where ticked ({whole(len(chosen))})"
            st.button(name, type="primary", key="labels-mine", on_click=_decide, args=(here, waiting, chosen))
    return True


def choose(pairs: Sequence[tuple[Any, Any, str]], *, key: str) -> list[bool]:
    """A table of two texts for each feature with a box to tick; True where the person's own is to replace the other."""
    names = ("Keep all", "Replace all", "Choose")
    choice = st.segmented_control(
        "Labels that differ", names, default=names[0], key=f"{key}-all", required=True, label_visibility="collapsed"
    )
    frame = label_tables.side_by_side(pairs)
    if choice != names[2]:
        frame["replace"] = choice == names[1]
    edited: pd.DataFrame = st.data_editor(
        frame,
        key=f"{key}-{choice}",
        hide_index=True,
        num_rows="fixed",
        height=min(420, 38 + 35 * len(frame)),
        disabled=[column for column in frame.columns if column != "replace" or choice != names[2]],
        column_config={
            "replace": st.column_config.CheckboxColumn("Replace", width=70),
            "ensemble": st.column_config.TextColumn("Ensemble", width=80),
            "feature": st.column_config.NumberColumn("Feature", format="%d", width=68, help="Number in the ensemble"),
            "member": st.column_config.NumberColumn("Member", format="%d", width=68),
            "latent": st.column_config.NumberColumn("In it", format="%d", width=60, help="Number within the member"),
            "there": st.column_config.TextColumn("There now", width=170),
            "yours": st.column_config.TextColumn("Yours", width=170),
            "by": st.column_config.TextColumn("There by", width=80),
        },
        alt="Labels that differ, with both texts",
    )
    return [bool(value) for value in edited["replace"]]


@callback
def _decide(here: Here, waiting: _Pending, chosen: Sequence[Conflict]) -> None:
    st.session_state.pop(_PENDING, None)
    clashing = {one.wanted.key for one in waiting.conflicts}
    refused = clashing - {one.wanted.key for one in chosen}
    rest = [edit for edit in waiting.edits if edit.wanted.key not in clashing]
    copies = {key: family for key, family in waiting.copies.items() if key not in refused}
    edits = [*rest, *(one.replacing() for one in chosen)]
    saved = save(here, edits, kind=waiting.kind, text=waiting.text, copies=copies)
    if saved is not None and not saved.conflicts:
        for one in waiting.conflicts:  # whichever text was chosen, the other one is given up
            label_drafts.forget(label_drafts.place_of(here.run, *one.wanted.key))
        stays = f"{labels_text(len(refused))} left as {'it was' if len(refused) == 1 else 'they were'}"
        written = f"{labels_text(saved.changed)} saved" if saved.changed or not refused else ""
        say("; ".join(filter(None, (written, stays if refused else ""))) + ".")
        reload_forms()
