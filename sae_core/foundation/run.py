"""The run folder: the contract between training and looking. With `folders.py`, all that knows file names.

A run folder holds everything about one experiment; it can be copied, zipped and opened elsewhere.
"""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections.abc import Iterable, Mapping
from copy import deepcopy
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

from sae_core.foundation.errors import UserError
from sae_core.foundation.files.whole_files import read_json, read_object, write_json
from sae_core.foundation.folders import CorpusFolder, EnsembleFolder, Within, file_name
from sae_core.foundation.settings.reading import parse_settings, stored_settings
from sae_core.foundation.settings.run_settings import RunSettings

FORMAT = 1
DETECTORS, DETECTION = "detectors", "detection"
"""Names of the tables beside that of the concepts: each detector's ROC curve, and which texts it called rightly; and
means over concepts with the differences between methods."""
_RECORDED_PACKAGES = ("sae-ensemble", "torch", "transformers", "numpy", "scipy", "scikit-learn", "umap-learn")


class Run:
    """One run folder.

    Attributes:
        path: The folder.
        settings: The settings it was created with.
    """

    def __init__(self, path: Path, settings: RunSettings) -> None:
        self.path = path
        self.settings = settings
        self._manifest: tuple[tuple[int, ...], dict[str, Any]] | None = None

    @classmethod
    def create(cls, path: Path, settings: RunSettings) -> Self:
        """Make a run folder, or open the one that is there if it has the same settings.

        A run in which nothing is finished takes the new settings: whoever mistyped a model's name may correct it. One
        that is asked for further methods takes them, and is then to be evaluated again, with all its ensembles.

        Raises:
            UserError: As `begun`.
        """
        if run := cls.begun(path, settings):
            run._take_methods()
            return run
        run = cls(path, settings)
        manifest = {
            "format": FORMAT,
            "id": uuid4().hex,
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "settings": settings.model_dump(mode="json"),
            "versions": _versions(),
            "finished": {},
        }
        write_json(run.manifest_path, manifest)
        return run

    @classmethod
    def begun(cls, path: Path, settings: RunSettings) -> Self | None:
        """The run with these settings that is there, or nothing if `create` would make it. Nothing is written.

        Raises:
            UserError: If the folder holds something else or a run with other settings.
        """
        if is_run(path):
            run = cls.open(path)
            difference = first_difference(run.settings.model_dump(), settings.model_dump())
            if not difference:
                return run
            if run.read_manifest()["finished"] and _adds_methods(run.settings, settings):
                return cls(path, settings)
            if run.read_manifest()["finished"]:
                raise UserError(
                    f"{path} holds a run with other settings ({difference}); choose another folder, or leave the "
                    "settings out to go on with those."
                )
        elif path.is_dir() and any(path.iterdir()):
            raise UserError(f"{path} is not empty and holds no run.json; choose a new or an empty folder.")
        return None

    def _take_methods(self) -> None:
        """Write down methods that were added since, and that evaluations lack them; their files stay until then."""
        manifest = deepcopy(self.read_manifest())
        if manifest["settings"] == self.settings.model_dump(mode="json"):
            return
        manifest["settings"]["training"]["methods"] = list(self.settings.training.methods)
        write_json(self.manifest_path, _without_evaluations(manifest))

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open an existing run folder.

        Raises:
            UserError: If there is no run, or it was written by a newer version.
        """
        if not is_run(path):
            raise UserError(
                f"{path} holds no run (there is no run.json in it); give the folder that train or demo wrote."
            )
        try:
            manifest: Any = read_json(path / "run.json")
        except UserError:
            manifest = None
        needed = [manifest.get(name) for name in ("settings", "finished")] if isinstance(manifest, dict) else []
        if not needed or not all(isinstance(part, dict) for part in needed):
            raise UserError(f"{path / 'run.json'} is damaged; restore it from a copy or train again in a new folder.")
        if not isinstance(manifest.get("format", 0), int) or manifest.get("format", 0) > FORMAT:
            raise UserError(f"{path} was written by a newer version; upgrade sae-ensemble to open it.")
        stored = stored_settings(manifest["settings"])
        return cls(path, parse_settings(stored, origin=str(path / "run.json"), stored=True))

    @cached_property
    def name(self) -> str:
        """The folder's name."""
        return self.path.resolve().name

    @cached_property
    def identity(self) -> str:
        """What tells the run from every other, and is the same in a copy of its folder under any name.

        Runs of older versions have no id; when they were made, with which settings and packages, stands for one.
        """
        manifest = self.read_manifest()
        known = manifest.get("id")
        if isinstance(known, str) and 0 < len(known) <= 64:
            return known
        told = {name: manifest.get(name) for name in ("created", "settings", "versions")}
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:32]

    def require_there(self) -> None:
        """Refuse to write into a run that was deleted, which would make its folder anew.

        Raises:
            UserError: If there is no run any more.
        """
        if not is_run(self.path):
            raise UserError(f"The run {self.path} is gone, so nothing can be kept in it; restore it or open another.")

    manifest_path = Within("run.json")
    """JSON: settings, seeds, data fingerprint, package versions, what is finished."""

    def read_manifest(self) -> dict[str, Any]:
        """Return the content of run.json as it is on disk now, not to be changed; a file that is as before is not read.

        Every writer replaces the file whole, so a changed one is seen by its time, size or number.

        Raises:
            UserError: If it is missing or damaged.
        """
        try:
            found = self.manifest_path.stat()
        except OSError:
            return read_object(self.manifest_path, settings=dict, finished=dict)  # which says what is wrong
        stamp = (found.st_mtime_ns, found.st_size, found.st_ino)
        if self._manifest is None or self._manifest[0] != stamp:
            self._manifest = stamp, read_object(self.manifest_path, settings=dict, finished=dict)
        return self._manifest[1]

    @property
    def corpus(self) -> CorpusFolder:
        """The indexed corpus."""
        return CorpusFolder(self.path / "corpus")

    activations = Within("activations")
    """Folder of the activation cache; it may be deleted once everything is trained."""
    dealt = Within("activations/dealt")
    """Folder of the cache in random piles, where a run shuffles on disk; gone when everything is trained."""
    truth = Within("truth.safetensors")
    """Safetensors: the known dictionary, where activations are drawn from one."""
    labels = Within("labels.sqlite")
    """SQLite: people's labels."""

    def ensemble(self, name: str) -> EnsembleFolder:
        """Paths of the ensemble called ``name``, whether it is there or not."""
        return EnsembleFolder(self.path / "ensembles" / name)

    def ensembles(self) -> list[EnsembleFolder]:
        """The trained ensembles, in the order in which settings name the methods, then by name."""
        order = {name: position for position, name in enumerate(self.settings.training.methods)}
        folders = [EnsembleFolder(path.parent) for path in self.path.glob("ensembles/*/ensemble.json")]
        return sorted(folders, key=lambda folder: (order.get(folder.name, len(order)), folder.name))  # type: ignore[call-overload]

    def evaluation(self, name: str) -> Path:
        """JSON file of one evaluation: ``reconstruction``, ``dictionary``, ``concepts``, ``cost`` …"""
        return self.path / "evaluation" / f"{name}.json"

    def evaluations(self) -> list[Path]:
        """The files of all evaluations that were made, of whatever name."""
        return sorted(path for path in (self.path / "evaluation").glob("[!.]*") if path.is_file())

    def evaluation_table(self, name: str) -> Path:
        """Parquet table of one evaluation, for what is too long for JSON."""
        return self.path / "evaluation" / f"{name}.parquet"

    def spurious(self, task: str) -> Path:
        """Safetensors: the pooled texts of one task with a spurious attribute, from which ablations are answered."""
        return self.path / "evaluation" / "spurious" / f"{file_name(task)}.safetensors"

    def spurious_texts(self, task: str) -> Path:
        """Parquet: the texts of that task, one a row, with their labels."""
        return self.spurious(task).with_suffix(".parquet")

    def spurious_choices(self, task: str) -> Path:
        """Folder of what people picked to be ablated in that task."""
        return self.spurious(task).with_suffix(".choices")

    def spurious_choice(self, task: str, name: str) -> Path:
        """JSON: one such choice."""
        return self.spurious_choices(task) / f"{file_name(name)}.json"

    def is_finished(self, stage: str) -> bool:
        """Whether a stage (``corpus``, ``train/bagged``, ``index/bagged`` …) is recorded and has all its files.

        So a file that is damaged can be deleted, and the command that wrote it writes it again.
        """
        manifest = self.read_manifest()
        files = manifest.get("files", {}).get(stage, ())
        return stage in manifest["finished"] and all((self.path / file).exists() for file in files)

    def finish(self, stage: str, facts: Mapping[str, Any] | None = None, *, files: Iterable[Path] = ()) -> None:
        """Record a stage as finished.

        Args:
            stage: Its name.
            facts: What is worth knowing of it, such as its seconds or a fingerprint of the data.
            files: What it wrote into the folder and without which it is not finished.
        """
        manifest = deepcopy(self.read_manifest())
        manifest["finished"][stage] = dict(facts or {})
        names = sorted(file.relative_to(self.path).as_posix() for file in files)
        manifest.setdefault("files", {})[stage] = names
        write_json(self.manifest_path, manifest)

    def take_ensemble(self, stage: str, facts: Mapping[str, Any], *, files: Iterable[Path]) -> None:
        """`finish` for an ensemble that the evaluations lack, which are then to be made again."""
        write_json(self.manifest_path, _without_evaluations(deepcopy(self.read_manifest())))
        self.finish(stage, facts, files=files)

    def facts(self, stage: str) -> dict[str, Any]:
        """What was recorded with a finished stage; empty if it is not finished."""
        facts: dict[str, Any] = self.read_manifest()["finished"].get(stage, {})
        return facts


def _without_evaluations(manifest: dict[str, Any]) -> dict[str, Any]:
    finished = {stage: facts for stage, facts in manifest["finished"].items() if not stage.startswith("evaluate/")}
    return {**manifest, "finished": finished}


def meeting_point(path: Path, token: str) -> Path:
    """A file by which processes on several machines find out whether a run folder is the same for all of them."""
    return path / f".{token}.seen"


def layer_folder(path: Path, layer: int, site: str) -> Path:
    """Where the run of one layer and site lies in a folder of runs."""
    place = "" if site == "residual" else f"_{site.replace('*', 'N')}"
    return path / f"layer_{layer:02d}{place}"


def is_run(path: Path) -> bool:
    """Whether ``path`` is a run folder."""
    return (path / "run.json").exists()


def holds_runs(path: Path) -> bool:
    """Whether ``path`` is no run folder but a folder of some."""
    return not is_run(path) and any(path.glob("*/run.json"))


def seed_folder(path: Path, seed: int) -> Path:
    """Where the run with one seed lies in a folder of runs that differ in their seeds."""
    return path / f"seed_{seed:02d}"


def sweep_manifest(path: Path) -> Path:
    """JSON file that says which settings vary over the runs of a folder, and which are the same for all."""
    return path / "sweep.json"


def report_page(path: Path) -> Path:
    """The report of a run or of a folder of runs, if no other place is named; its figures lie beside it as JSON."""
    return path / "report.html"


def evaluation_of_runs(path: Path, name: str) -> Path:
    """JSON file of what an evaluation came to over all runs of a folder."""
    return path / "evaluation" / f"{name}.json"


def find_runs(path: Path) -> list[Path]:
    """The run folders at ``path``: itself, or the folders directly in it that hold a run.json.

    Raises:
        UserError: If there is none.
    """
    if is_run(path):
        return [path]
    runs = sorted(manifest.parent for manifest in path.glob("*/run.json"))
    if not runs:
        raise UserError(f"{path} holds no run, nor does a folder in it; give the folder that train or demo wrote.")
    return runs


def _adds_methods(there: RunSettings, here: RunSettings) -> bool:
    """Whether settings differ from those of a run in further methods alone."""
    more = here.training.methods
    alike = here.model_copy(update={"training": here.training.model_copy(update={"methods": there.training.methods})})
    return alike == there and set(there.training.methods) < set(more)


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version(), "platform": platform.platform()}
    for package in _RECORDED_PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def first_difference(there: Mapping[str, Any], here: Mapping[str, Any]) -> str | None:
    """The first setting in which two nested mappings of settings differ, in words; None if there is none."""
    for section, values in there.items():
        for name, value in values.items():
            if here[section][name] != value:
                return f"{section}.{name} is {value!r} there, {here[section][name]!r} here"
    return None
