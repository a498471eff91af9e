"""The shape of what activations come from, and the small model that stands in for one that is not here."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from sae_core.activations.harvest import harvest
from sae_core.activations.origins.language_model.model.finding_shape import find_shape
from sae_core.activations.origins.language_model.model.random_model import write_random_model
from sae_core.activations.origins.language_model.model.shapes import ModelShape
from sae_core.activations.origins.text.documents import TEXT_FORMATS
from sae_core.activations.stages import CORPUS
from sae_core.foundation.files import row_files
from sae_core.foundation.run import Run
from sae_core.foundation.settings.run_settings import EMBEDDED, ModelSettings, RunSettings
from sae_core.runs.planning.work import Work

FEW = {"train_tokens": 64, "index_tokens": 64, "evaluation_tokens": 64}
BLOCKS = 2
"""Blocks of a stand-in, at most."""


def find_source(settings: RunSettings) -> ModelShape:
    """The shape of the model; of another origin, whose first activations are gathered for it, the dimension alone.

    Raises:
        UserError: If there is no such model, or the activations cannot be had.
    """
    if settings.origin.reads_text:
        return find_shape(settings.model)
    with tempfile.TemporaryDirectory() as folder:
        few = settings.model_copy(update={"data": settings.data.model_copy(update=FEW)})
        run = Run.create(Path(folder) / "run", few)
        harvest(run)
        return ModelShape(settings.origin.kind, 0, CORPUS.facts(run)["d_in"], 0, 0, 0, 0, 0, 0)


def with_stand_ins(work: Work, folder: Path) -> tuple[Work, list[str]]:
    """The work with text and model that are here, and remarks on those that are not.

    A model that is not a local folder is replaced by a few blocks of its shape with random weights and the embedded
    model's tokenizer, which are written to ``folder``; a data set of the hub by the embedded text.
    """
    settings, remarks = work.settings, []
    text, model, changed, shape = settings.text, settings.model, dict[str, Any](), work.model
    if not settings.origin.reads_text:
        return work, []
    path = Path(text.source).expanduser()
    if not (text.is_embedded or path.exists() or path.suffix.lower() in (*row_files.FORMATS, *TEXT_FORMATS)):
        remarks.append(f"Text of {text.source} was not read: its download is not in the time.")
        changed["text"] = text.model_copy(update={"source": EMBEDDED, "text_column": "text", "max_documents": None})
    if not (model.is_embedded or Path(model.name).expanduser().exists()):
        shape = replace(shape, layers=min(BLOCKS, model.layer + 1), vocabulary=find_shape(ModelSettings()).vocabulary)
        remarks.append(f"{model.name} is not here; its speed is that of {shape.layers} blocks of its shape.")
        write_random_model(shape, folder)
        new = {"name": str(folder), "revision": None, "layer": shape.layers - 1, "site": "residual"}
        changed["model"] = model.model_copy(update=new)
    return replace(work, settings=settings.model_copy(update=changed), model=shape), remarks
