"""Shared fixtures: a quiet environment, and one trained run for tests that read a run."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

# Set before the libraries that read them are imported, and passed on to the programs that tests start.
# A test that needs the network is a broken test.
os.environ["HF_HUB_OFFLINE"] = "1"
# The tensors here are so small that handing them to threads costs more than computing them, above all where other jobs
# share the cores; and one thread adds up in one order, so that a seed gives the same bits on every machine. numba,
# which the atom map uses, would otherwise set the number of threads that torch uses, too.
os.environ["OMP_NUM_THREADS"] = os.environ["NUMBA_NUM_THREADS"] = "1"

# Started in the background by a shell that is no terminal's (nohup … &), this process ignores Ctrl-C, and so would all
# that it starts; the tests of Ctrl-C are about programs that do not.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import torch

# Without a GPU Triton's programs are interpreted, which has to be said before anything imports triton.
os.environ["TRITON_INTERPRET"] = str(int(not torch.cuda.is_available()))

import browsing
import pytest
from models import MARKUP, build_model, build_tokenizer, sample_texts

from sae_core.analysis.concepts.runs import evaluate_task
from sae_core.foundation.run import Run
from sae_core.foundation.settings.run_settings import RunSettings
from sae_core.runs import pipeline

if TYPE_CHECKING:
    from playwright.sync_api import Browser

# Where a plugin has imported torch before this file, the variables come too late.
torch.set_num_threads(1)

# One server forks all processes of the tests, and the first test that needs it starts it. torch._dynamo is what making
# an Adam imports, for seconds, in every process that does not find it there.
multiprocessing.set_forkserver_preload(
    ["torch._dynamo", "sae_core.training.train", "sae_core.training.kernels.cpu.step", "together"]
)


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a small language model with random weights that has `MARKUP` as one of its tokens."""
    folder = tmp_path_factory.mktemp("model")
    model, tokenizer = build_model(), build_tokenizer()
    tokenizer.add_tokens([MARKUP])
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    with torch.no_grad():
        # As long as the other tokens' vectors, which `build_model` has lengthened.
        model.get_input_embeddings().weight[-1].mul_(5)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def labelled_texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """JSON lines with ``text``, a ``label`` to detect in it, and ``topic``, which says nothing about the text."""
    path = tmp_path_factory.mktemp("text") / "texts.jsonl"
    rows = []
    for number, text in enumerate(sample_texts(320, seed=9)):
        label = "page" if "the " in text else "plain"
        rows.append({"text": text.replace("the ", MARKUP), "label": label, "topic": f"topic {number % 4}"})
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory: pytest.TempPathFactory, small_model: Path, labelled_texts: Path) -> Run:
    """A run called ``run``, trained, indexed and evaluated through the real pipeline. Copy it before changing it."""
    settings = {
        "text": {"source": str(labelled_texts)},
        "model": {"name": str(small_model), "layer": 1, "context": 64, "batch_size": 16},
        "data": {"train_tokens": 6000, "index_tokens": 4000, "evaluation_tokens": 800},
        "sae": {"width": 48, "k": 4, "dead_after_tokens": 4000},
        "training": {"members": 3, "tokens": 40_000, "batch_size": 128, "learning_rate": 3e-3, "device": "cpu"},
        "evaluation": {"train_texts": 100, "test_texts": 40, "tokens_per_text": 40, "bootstrap": 50},
    }
    run = Run.create(tmp_path_factory.mktemp("trained") / "run", RunSettings.model_validate(settings))
    pipeline.run_everything(run)
    evaluate_task(run, labelled_texts, text_column="text", label_column="label")
    return run


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A real browser."""
    with browsing.chromium() as found:
        yield found


@pytest.fixture(scope="module")
def address(run: Run) -> Iterator[str]:
    """The address of a dashboard that serves the module's run."""
    with browsing.serving(run.path) as found:
        yield found


@pytest.fixture
def watched(browser: Browser) -> Iterator[browsing.Watched]:
    """A page that remembers what went wrong on it."""
    one = browsing.Watched(browser)
    yield one
    one.context.close()


@pytest.fixture(scope="module")
def copied_run(tmp_path_factory: pytest.TempPathFactory, trained_run: Run) -> Run:
    """A copy of the trained run, in which labels may be written."""
    return Run.open(shutil.copytree(trained_run.path, tmp_path_factory.mktemp("browser") / "run"))
