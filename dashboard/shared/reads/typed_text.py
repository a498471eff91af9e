"""A text typed in, through the run's language model: the model and the ensemble are loaded once for everybody.

What needs torch is imported when somebody opens the page for it: it takes seconds, for which the first page would wait.
"""

from __future__ import annotations

import gc
from functools import cache
from importlib import import_module
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

import streamlit as st

from dashboard.shared.reads.cached import modified
from dashboard.shared.reads.opening import open_run
from dashboard.shared.reads.tables import corpus
from sae_core.activations.origins.text.token_texts import TokenTexts
from sae_core.activations.stages import CORPUS
from sae_core.foundation.run import Run
from sae_core.foundation.settings.run_settings import ModelSettings

if TYPE_CHECKING:
    from sae_core.analysis.live_text import LiveText, ReadText, TextReader
    from sae_core.ensembles.ensemble import Ensemble

MODELS, ENSEMBLES, TEXTS = 1, 2, 64
"""Models, ensembles and results kept: a model takes most of the memory, a result some kilobytes."""


@cache
def import_reader() -> None:
    """Begin to import what reads texts, and come back at once: it takes seconds, in which a person types."""
    Thread(target=_import_reader, name="import-reader", daemon=True).start()


def _import_reader() -> None:
    import_module("sae_core.activations.origins.language_model.reading")
    gc.freeze()  # the collector of garbage need never look at so many objects again


def live_text(run: Run, ensemble: str, text: str) -> LiveText:
    """What an ensemble makes of a text; the first call loads the model, which takes seconds or, from a hub, minutes.

    Raises:
        UserError: If the run has no language model or it cannot be loaded, or the text holds no token.
    """
    manifest = run.ensemble(ensemble).manifest
    return _live_text(str(run.path), modified(run.manifest_path), ensemble, modified(manifest), text)


@st.cache_resource(max_entries=TEXTS, show_spinner=False)
def _live_text(path: str, modified_run: int, name: str, modified_ensemble: int, text: str) -> LiveText:
    from sae_core.analysis.live_text import encode_text

    run = open_run(Path(path))
    read = text_read(path, modified_run, text)
    known = corpus(run)
    return encode_text(loaded_ensemble(path, name, modified_ensemble), read, known.texts if known else TokenTexts())


@st.cache_resource(max_entries=TEXTS // 4, show_spinner=False)
def text_read(path: str, modified: int, text: str) -> ReadText:
    """A text as the run's model reads it: tokens and activations."""
    from sae_core.analysis.live_text import read_text

    run = open_run(Path(path))
    run.settings.origin.require_text(run)
    return read_text(run, _reader(run.settings.model.model_dump_json(), "auto"), text)


@st.cache_resource(max_entries=MODELS, show_spinner="Loading the language model …")
def _reader(settings: str, device: str) -> TextReader:
    from sae_core.analysis.live_text import TextReader

    return TextReader(ModelSettings.model_validate_json(settings), device=device)


@st.cache_resource(max_entries=ENSEMBLES, show_spinner="Loading the ensemble …")
def loaded_ensemble(path: str, name: str, modified: int) -> Ensemble:
    """An ensemble with its weights, where texts are encoded."""
    from sae_core.ensembles.ensemble import load_ensemble
    from sae_core.foundation.machine.device import resolve_device

    run = open_run(Path(path))
    device = resolve_device("auto")
    return load_ensemble(run.ensemble(name), device=device, d_in=CORPUS.facts(run).get("d_in"))
