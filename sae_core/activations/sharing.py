"""Runs that work on the same activations share the files of one of them, instead of gathering all that again.

The files are hard links: each run stays whole when it is copied or another one is deleted, and none takes disk twice.
Where the disk has no hard links, they are copies.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from sae_core.activations.harvest import train_cache
from sae_core.activations.stages import ACTIVATIONS, CORPUS
from sae_core.activations.store.cache import META, ActivationCache
from sae_core.activations.store.checksums import Verified
from sae_core.activations.store.piles import choose_shuffle
from sae_core.foundation.files.whole_files import read_object, replacing
from sae_core.foundation.run import Run
from sae_core.foundation.settings.run_settings import RunSettings

_STAGES = (CORPUS.key, ACTIVATIONS.key)


def activations_key(settings: RunSettings, *, places: bool = True) -> str:
    """The settings that decide which corpus and activations a run works on: runs with the same key have the same.

    Args:
        settings: Those of a run.
        places: Whether the layer and the site count, too; without them, runs whose activations come from one pass of
            the model have the same key.
    """
    origin = settings.origin
    decided = origin.decided_by(settings) if places else origin.shared_by(settings)
    data = settings.data.model_dump(mode="json", exclude={"shuffle"})  # which says in which order they are read
    return json.dumps([origin.kind, decided, data, settings.training.device], sort_keys=True)


def has_activations(run: Run) -> bool:
    """Whether corpus and activations are there."""
    return all(run.is_finished(stage) for stage in _STAGES)


def share_activations(source: Run, runs: Sequence[Run]) -> None:
    """Give runs the corpus and the activation caches of another one with the same `activations_key`.

    Args:
        source: The run that has them.
        runs: Those that lack them.
    """
    files = source.read_manifest()["files"]
    caches = [Path(name).parent for name in files[ACTIVATIONS.key] if Path(name).name == META]
    for cache in caches:
        ActivationCache.open(source.path / cache)  # which checks it
    linked = [source]
    for run in runs:
        hard = [
            _link(source.path / name, run.path / name)
            for stage in _STAGES
            for name in files[stage]
            if not (stage == CORPUS.key and CORPUS.is_finished(run))
        ]
        if all(hard):
            linked.append(run)
    # A new link changes the time by which files are known to be unchanged; only now there will be no more of them.
    for run in linked:
        for cache in caches:
            _trust(run.path / cache)
    for run in runs:
        for stage in _STAGES:
            facts = source.facts(stage) | {"seconds": 0.0, "shared_with": source.name}
            if stage == ACTIVATIONS.key and not run.settings.origin.rows_are_independent:
                facts["shuffle"] = choose_shuffle(run, train_cache(run))
            if not run.is_finished(stage):
                run.finish(stage, facts, files=[run.path / name for name in files[stage]])


def _link(file: Path, target: Path) -> bool:
    """Make ``target`` the same file as ``file``, or a copy of it; whether it is the same file."""
    with replacing(target) as partial:
        try:
            os.link(file, partial)
        except OSError:
            shutil.copyfile(file, partial)
            return False
    return True


def _trust(folder: Path) -> None:
    """Note that the shards of a cache are those that were just checked under another name."""
    verified = Verified(folder)
    for shard in read_object(folder / META, shards=list)["shards"]:
        verified.trust(shard["file"], shard["checksum"])
    verified.save()
