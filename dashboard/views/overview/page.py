"""Overview: what was trained, on what, and how the ensembles compare."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import streamlit as st

from dashboard.shared.address import Here, here
from dashboard.shared.common import chart, choice, missing
from dashboard.shared.look.cards import notice
from dashboard.shared.look.charts import CONFIG
from dashboard.shared.look.colors import method_color
from dashboard.shared.reads import tables
from dashboard.shared.reads.opening import EnsembleInfo
from dashboard.views.overview import conclusions as reporting
from dashboard.views.overview import data
from dashboard.views.overview.charts import by_members, cost, training
from dashboard.views.overview.findings import found_by_members
from sae_core.activations.massive import about_activations
from sae_core.activations.stages import ACTIVATIONS, CORPUS
from sae_core.analysis.atoms.figures import MEMBER_STABILITY
from sae_core.analysis.atoms.stage import ATOMS
from sae_core.analysis.concepts.figures import detection
from sae_core.analysis.cost.figures import TRAIN_SECONDS
from sae_core.analysis.cost.stage import COST
from sae_core.analysis.figures import BY_MEMBERS, OVERVIEW
from sae_core.analysis.reconstruction.figures import (
    EXPLAINED_VARIANCE,
    KL_RECOVERED,
    LOSS_RECOVERED,
    NATS,
    PER_DIMENSION,
)
from sae_core.analysis.reconstruction.stage import LOSS, RECONSTRUCTION
from sae_core.analysis.shared.names_in_tables import CONTROL, SCALED
from sae_core.analysis.stages import stages_of
from sae_core.analysis.summary import by_ensemble
from sae_core.foundation.figures import Figure
from sae_core.foundation.method import RANDOM_STAGES
from sae_core.foundation.methods import GIVEN, control_name, title_of, trained_by
from sae_core.foundation.numbers import MISSING, compact, decimal, interval, percent, whole
from sae_core.foundation.settings.architectures import fixes_l0
from sae_core.report.html import Cell, Column, Html
from sae_core.report.pieces.cards import chip, heading, section, table
from sae_core.report.reconstruction_sections import nats
from sae_core.training.declared import TRAIN

MAX_BUTTONS = 4
"""Measures that fit side by side; more are a menu."""
CURVES = {
    "explained_variance": "explained variance (of a batch)",
    "loss": "loss (summed squared error)",
    "l0": "L0 (features a token)",
}


def show(here: Here) -> None:
    """The whole page."""
    settings = here.run.settings
    st.html(heading(here.run.path.name, _story(here), _chips(here)))
    if not here.ensembles:
        missing(here, "train")
        return
    _text(here)
    _imported(here)
    reporting.verdict(here)
    _comparison(here)
    reporting.what_it_comes_to(here)
    _charts(here)
    reporting.where_to_stop(here)
    reporting.all_figures(here)
    if here.ensemble is not None:
        _curves(here, here.ensemble)
    with st.expander("Settings and progress of this run", icon=":material/tune:"):
        st.html(_progress(here))
        st.json(settings.model_dump(mode="json"), expanded=1)


def _story(here: Here) -> str:
    settings, facts, words = here.run.settings, CORPUS.facts(here.run), here.words
    seen = f"Each member saw {compact(settings.training.tokens)} {words.row} activations"
    said = [seen] if trained_by(settings) else []
    said += [f"{compact(facts['index_tokens'])} {words.rows} can be browsed"] if "index_tokens" in facts else []
    after = f" {'; '.join(said)}." if said else ""
    return f"Sparse autoencoders on {settings.origin.described(settings)}.{after}"


def _text(here: Here) -> None:
    """What text was asked for and what was got."""
    facts, settings = CORPUS.facts(here.run), here.run.settings
    got, short = settings.origin.about(settings, facts)
    if short:
        st.html(notice(short, got))
    elif got:
        st.caption(got)
    for remark in (*facts.get("remarks", ()), *about_activations(ACTIVATIONS.facts(here.run))):
        st.html(notice(remark))


def _imported(here: Here) -> None:
    """Where the members of imported ensembles came from."""
    for name in here.ensembles:
        given = here.run.facts(TRAIN.key_of(name)).get(GIVEN, ())
        if given:
            members = (f"{number}: {each['format']} from {each['from']}" for number, each in enumerate(given))
            st.html(notice(f"Imported as {title_of(name)}", "; ".join(members)))


def _trained_chips(here: Here) -> list[Html]:
    sae = here.run.settings.sae
    chips = [chip(f"{sae.architecture} SAE"), chip(f"{sae.width:,} features a member")]
    if fixes_l0(sae.architecture):
        member_k = here.run.settings.training.member_k
        own = f", by member {', '.join(map(str, member_k))}" if member_k else ""
        chips.append(chip(f"k = {sae.k}{own}"))
    return chips


def _chips(here: Here) -> list[Html]:
    facts, chips = CORPUS.facts(here.run), _trained_chips(here) if trained_by(here.run.settings) else []
    if "d_in" in facts:
        chips.append(chip(f"d = {facts['d_in']}"))
    if "documents" in facts:
        chips.append(chip(f"{whole(facts['documents'])} documents indexed"))
    chips.append(chip(f"seed {here.run.settings.training.seed}"))
    return chips


def _comparison(here: Here) -> None:
    st.html(
        section("How the ensembles compare", "One row an ensemble; point at an underlined heading for its definition.")
    )
    rows = tables.summary(here.run)
    cells = [(_row(row), _control(row)) for row in rows]
    st.html(table(COLUMNS, [each for own in cells for each in own if each]))
    references = next((row["cross_entropies"] for row in rows if row["cross_entropies"]), None)
    if references and None not in references.values():
        st.caption(nats(references))
    if any(control for _, control in cells):
        st.caption(f"{RANDOM_STAGES.capitalize()}: {CONTROL}")
    if all(row["explained_variance"] is None for row in rows):
        missing(here, "evaluate", "The held-out figures are not measured yet")


def _row(row: dict[str, Any]) -> list[Cell]:
    return [
        Cell(title_of(row["ensemble"]), color=method_color(row["ensemble"])),
        _size(row),
        *(_cell(row, figure, figure.row) for figure in OVERVIEW),
    ]


def _size(row: Mapping[str, Any]) -> Cell:
    return Cell(f"{row['members']} × {row['features'] // row['members']:,}")


def _cell(row: Mapping[str, Any], figure: Figure, name: str) -> Cell:
    """A figure of an ensemble, or with another name of its control, and below it what belongs to it."""
    if name not in row:
        return Cell(MISSING)
    notes = [interval(row.get(f"{name}_low"), row.get(f"{name}_high"))]
    notes += NOTES[figure.row][0](row, name) if figure.row in NOTES else []
    return Cell((figure.short or figure.style)(row[name]), "\n".join(note for note in notes if note))


def _training_notes(row: Mapping[str, Any], _: str) -> list[str]:
    """At how many tokens, steps and operations, and of how many parameters."""
    words = {"train_tokens": "tokens an SAE", "train_steps": "steps", "train_flops": "FLOP", "parameters": "param."}
    return [f"{compact(row[key])} {word}" for key, word in words.items() if row[key] is not None]


def _loss_notes(row: Mapping[str, Any], name: str) -> list[str]:
    """The same with mean ablation."""
    mean = row["loss_recovered_mean"]
    return [] if mean is None or name != LOSS_RECOVERED.row else [f"over mean {percent(mean)}"]


def _nats_notes(row: Mapping[str, Any], name: str) -> list[str]:
    """What the model itself reaches."""
    own = (row["cross_entropies"] or {}).get("model")
    return [] if own is None or name != NATS.row else [f"model {decimal(own, 3)}"]


def _detection_notes(row: Mapping[str, Any], name: str) -> list[str]:
    """What one feature detects."""
    one = row[detection(1, control=name.startswith("control_")).row]
    return [] if one is None else [f"{percent(one)} with 1"]


def _stability_notes(row: Mapping[str, Any], _: str) -> list[str]:
    """What random dictionaries reach, and independent trainings if there are any; of boosting stage 2 beside noise."""
    notes = [] if row["member_stability_null"] is None else [f"random {decimal(row['member_stability_null'])}"]
    if row["retrain_stability"] is not None:
        notes.append(f"{row['retrains']} trainings {decimal(row['retrain_stability'])}")
    if row["stage_2_stability"] is not None:
        noise = row["stage_2_stability_noise"]
        beside = "" if noise is None else f", on noise {decimal(noise, 3)}"
        notes.append(f"their stage 2 {decimal(row['stage_2_stability'], 3)}{beside}")
    return [" · ".join(notes)]


def _control(row: dict[str, Any]) -> list[Cell]:
    """The row of a boosted ensemble's control; nothing for the others."""
    if row["stages"] < 2:
        return []
    share = row["control_untrained_share"]
    small = "" if share is None else f"{percent(share, 0)} of the gain over stage 1"
    if row["control_explained_variance"] is None:
        small = "not measured; sae-ensemble evaluate adds it"
    named = Cell(control_name(row["ensemble"]), small)
    return [named, _size(row), *(_cell(row, figure, f"control_{figure.row}") for figure in OVERVIEW)]


NOTES: Mapping[str, tuple[Callable[[Mapping[str, Any], str], list[str]], str]] = {
    LOSS_RECOVERED.row: (
        _loss_notes,
        "0 % as without this layer, 100 % as with the model's own activations; below it the share that is recovered of "
        "what setting activations to their mean costs, which is less",
    ),
    NATS.row: (_nats_notes, "below it that of the model itself"),
    MEMBER_STABILITY.row: (
        _stability_notes,
        "below it random dictionaries. Where other trainings were compared: the whole ensemble over trainings, and a "
        "boosted stage 2, beside SAEs that were trained on Gaussian noise like its residual",
    ),
    detection(5).row: (_detection_notes, f"below it with 1 feature. {SCALED}"),
    TRAIN_SECONDS.row: (
        _training_notes,
        "below it the activations that each SAE is trained on, the steps of the optimiser one after another, counted "
        "operations and the parameters trained",
    ),
}
"""What stands below a figure, and how its heading's tooltip says so."""
COLUMNS = (
    Column("Ensemble"),
    Column("SAEs × features", "Members of the ensemble and features of each"),
    *(
        Column(figure.overview, "; ".join([figure.definition, *NOTES.get(figure.row, ("",))[1:]]))
        for figure in OVERVIEW
    ),
)


def _charts(here: Here) -> None:
    reconstruction, costs = (tables.evaluation(here.run, stage.name) for stage in (RECONSTRUCTION, COST))
    if data.report(here.run) is None:
        return
    left, right = st.columns(2, gap="large")
    with left:
        _gains(here, reconstruction)
    if costs is not None:
        with right:
            chart(
                cost(tables.summary(here.run), by_ensemble(costs)),
                "What it costs to use",
                f"Higher explains more, further right computes more for each {here.words.row}; bars are 95 % "
                "intervals.",
                key="cost",
            )
    if reconstruction is not None:
        _identities(reconstruction["ensembles"])


def _gains(here: Here, reconstruction: dict[str, Any] | None) -> None:
    figures: dict[str, Any] = {}
    if reconstruction is not None:
        figures = dict.fromkeys((EXPLAINED_VARIANCE.path, PER_DIMENSION.path), reconstruction["ensembles"])
    loss = tables.evaluation(here.run, LOSS.name)
    if loss and loss["defined"]:
        figures |= dict.fromkeys((LOSS_RECOVERED.path, KL_RECOVERED.path), loss["ensembles"])
    content = data.report(here.run) or {"ensembles": {}}
    for name in BY_MEMBERS:
        found = {} if name in figures else found_by_members(content["ensembles"], name)
        figures |= {name: found} if found else {}
    if not figures:
        return
    title, names = "What each further member adds", {name: _capital(BY_MEMBERS[name].said) for name in figures}
    above = st.container()  # the heading names the measure, which is chosen below it
    measure = choice("gain", "What members add", list(figures), names.__getitem__, menu=len(figures) > MAX_BUTTONS)
    rows = here.words.rows
    how_to_read = (
        f"{names[measure]} on held-out {rows} when only the first members are used; a diamond is one SAE alone."
    )
    above.html(section(title, how_to_read))
    st.plotly_chart(
        by_members(figures[measure], measure, BY_MEMBERS[measure].said),
        key=f"by-members-{measure}",
        config=CONFIG,
        alt=f"{title}. {how_to_read}",
    )


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _identities(ensembles: dict[str, Any]) -> None:
    errors = [
        f"{title_of(name)} {figures['identity_error']:.0e}"
        for name, figures in ensembles.items()
        if figures.get("identity_error") is not None
    ]
    if errors:
        st.caption(
            f"Relative error of the exact decomposition of each ensemble's error on these data: {', '.join(errors)}."
        )


def _curves(here: Here, info: EnsembleInfo) -> None:
    curves = tables.curves(here.run, info.name)
    if curves is None or curves.empty:
        return
    measures = [name for name in CURVES if name in curves]
    st.html(
        section(
            f"Training of {info.title}",
            f"One line a member over the {here.words.rows} it has seen; a line that still climbs has not converged.",
        )
    )
    measure = st.segmented_control(
        "Measure",
        measures,
        default=measures[0],
        format_func=lambda name: CURVES[name].split(" (")[0].capitalize() if name != "l0" else "L0",
        label_visibility="collapsed",
        key="curve",
    )
    chosen = measure or measures[0]
    st.plotly_chart(
        training(curves, chosen, CURVES[chosen], word=info.member_word), key="training", config={"displaylogo": False}
    )


def _progress(here: Here) -> Html:
    stages = {CORPUS.key: "corpus gathered", ACTIVATIONS.key: "activations read"}
    trained = trained_by(here.run.settings)
    stages |= {TRAIN.key_of(name): f"{title_of(name)} trained" for name in trained}
    for name in dict.fromkeys((*trained, *here.ensembles)):
        stages[ATOMS.key_of(name)] = f"{title_of(name)} indexed"
    stages |= {stage.key: f"{stage.name} measured" for stage in stages_of("evaluate")}
    done = [text for stage, text in stages.items() if here.run.is_finished(stage)]
    open_ = [text for stage, text in stages.items() if not here.run.is_finished(stage)]
    return notice(
        "Finished: " + (", ".join(done) or "nothing yet"), "Not finished: " + ", ".join(open_) if open_ else ""
    )


show(here())
