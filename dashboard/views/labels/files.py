"""Labels to CSV and back: what an import would do is shown, and chosen, before anything is written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import streamlit as st

from dashboard.shared import labelling
from dashboard.shared.address import Here
from dashboard.shared.faults import callback
from dashboard.shared.look.cards import plain
from dashboard.shared.reads import label_store
from sae_core.foundation.errors import UserError
from sae_core.foundation.numbers import whole
from sae_core.labels import LARGEST_MB, ImportPlan, Label, plan_import
from sae_core.report.pieces.cards import section, tile, tiles

_VERSION = "labels-file-version"


def files(here: Here, found: Sequence[Label]) -> None:
    """Export and import side by side."""
    left, right = st.columns([1, 2.3], gap="large")
    with left:
        _export(here, found)
    with right:
        _import(here)


def _export(here: Here, found: Sequence[Label]) -> None:
    st.html(
        section(
            "Export",
            "A CSV file with one row a label. Cells that a spreadsheet would run as a formula get an apostrophe in "
            "front, which the import takes away again.",
        )
    )
    st.download_button(
        "Download CSV",
        lambda: label_store.labels(here.run).to_csv().encode(),
        file_name=f"labels-{here.run.name}.csv",
        mime="text/csv",
        icon=":material/download:",
        disabled=not found,
        on_click="ignore",
    )


def _import(here: Here) -> None:
    st.html(
        section(
            "Import",
            "A CSV file as the export writes it, or the list of the map with labels written into it; it is first "
            "compared with what is there.",
        )
    )
    version = st.session_state.get(_VERSION, 0)
    file = st.file_uploader(
        "CSV file", type="csv", key=f"labels-file-{version}", label_visibility="collapsed", max_upload_size=LARGEST_MB
    )
    if file is None:
        return
    try:
        plan = plan_import(label_store.labels(here.run), _text(file), widths_of(here))
    except UserError as error:
        st.error(plain(str(error)))
        return
    _plan(here, plan, file.name)


def _plan(here: Here, plan: ImportPlan, name: str) -> None:
    st.html(
        tiles(
            [
                tile("New", whole(len(plan.new)), "features without a label", title="They get the label of the file"),
                tile("Same", whole(plan.same), "word for word", title="Nothing is written for these"),
                tile("Different", whole(len(plan.differing)), "keep or replace", title="Choose below"),
            ]
        )
    )
    for remark in plan.remarks:
        st.caption(plain(remark))
    if plan.removed:
        st.caption(f"{whole(plan.removed)} of the new ones were here once and somebody removed them.")
    replaced = [False] * len(plan.differing)
    if plan.differing:
        pairs = [(one.wanted, one.there, one.there.author) for one in plan.differing]
        versions = tuple((one.wanted.label, one.there.version) for one in plan.differing)
        replaced = labelling.choose(pairs, key=f"import-{hash(versions)}")
    taken = [one.wanted.key for one, is_taken in zip(plan.differing, replaced, strict=True) if is_taken]
    count = len(plan.new) + len(taken)
    st.button(
        f"Import {labelling.labels_text(count)}" if count else "Nothing to import",
        type="primary",
        icon=":material/upload:",
        disabled=not count,
        on_click=_take,
        args=(here, plan, taken, name),
        key="labels-import",
    )


@callback
def _take(here: Here, plan: ImportPlan, taken: Sequence[tuple[str, int]], name: str) -> None:
    saved = labelling.save(here, plan.edits(replace=taken), kind="import", text=name)
    if saved is not None and not saved.conflicts:
        kept = len(plan.differing) - len(taken)
        rest = f"; {whole(kept)} kept as they were" if kept else ""
        labelling.say(f"{labelling.labels_text(saved.changed)} imported from {name}{rest}.")
        labelling.reload_forms()
    st.session_state[_VERSION] = st.session_state.get(_VERSION, 0) + 1


def _text(file: Any) -> str:
    try:
        return str(file.getvalue().decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise UserError(f"{file.name} is not UTF-8 text; save it as “CSV UTF-8”.") from None


def widths_of(here: Here) -> dict[str, list[int]]:
    """Features of each member, for every ensemble."""
    return {name: list(info.widths) for name, info in here.ensembles.items()}
