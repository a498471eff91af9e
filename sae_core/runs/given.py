"""Find and read SAEs that others give: a folder, a file, an ensemble of a run, or an id on the hub."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any

from huggingface_hub import HfApi, hf_hub_download, snapshot_download

from sae_core.activations.origins.text import hub
from sae_core.ensembles.coder import Coder
from sae_core.ensembles.ensemble import Ensemble, files_of, load_ensemble, saes_of
from sae_core.foundation.errors import UserError, short
from sae_core.foundation.folders import EnsembleFolder
from sae_core.foundation.run import Run, is_run
from sae_core.sae.formats.declaration import Checkpoint, Place, formats, read_checkpoint

MANIFEST, RUN = EnsembleFolder(Path()).manifest.name, "run.json"


@dataclass(frozen=True, slots=True)
class Given:
    """An SAE or an ensemble that was brought in.

    Attributes:
        source: The path or id by which it was given.
        coder: The SAE or the ensemble, ready for inference.
        kind: What it was recognised as.
        files: SHA-256 of each file that was read, by its name within the folder.
        place: Which activations it was trained on, as far as it says.
        remarks: What differs from the SAE as its tool runs it, in sentences.
    """

    source: str
    coder: Coder
    kind: str
    files: dict[str, str]
    place: Place
    remarks: tuple[str, ...] = ()

    @property
    def members(self) -> Iterator[Coder]:
        """The members of an ensemble; an SAE itself."""
        return iter(self.coder) if isinstance(self.coder, Ensemble) else iter((self.coder,))

    @property
    def facts(self) -> dict[str, Any]:
        """Where it came from, for run.json."""
        place = self.place
        return {
            "from": self.source,
            "format": self.kind,
            "architectures": sorted({sae.architecture for sae in saes_of(self.coder)}),
            "features": self.coder.width,
            **{"model": place.model, "layer": place.layer, "site": place.site, "hook": place.hook},
            "sha256": self.files,
        }


def read_given(source: str) -> Given:
    """Read what a path or an id on the hub names.

    Raises:
        UserError: If there is no such thing, its format is not known, or it is damaged or cannot be followed.
    """
    path = Path(source).expanduser()
    if path.exists():
        source = str(path.absolute())  # what a run keeps of it must not depend on where the command was called
    else:
        path = _fetched(source, path)
    folder = EnsembleFolder(path if path.is_dir() else path.parent)
    if is_run(path):
        names = ", ".join(str(each.path) for each in Run.open(path).ensembles()) or "it has none yet"
        raise UserError(f"{path} is a run; give one of its ensembles ({names}).")
    if folder.manifest.exists():
        ensemble = load_ensemble(folder)
        kind = f"ensemble {ensemble.method} of {len(ensemble)}"
        found = Checkpoint(next(ensemble.saes()), kind, tuple(files_of(ensemble, folder)))
        return _given(source, found, ensemble)
    found = read_checkpoint(path)
    return _given(source, found, found.sae)


def _given(source: str, found: Checkpoint, coder: Coder) -> Given:
    within = Path(os.path.commonpath([file.parent for file in found.files]))
    files = {file.relative_to(within).as_posix(): _sha256(file) for file in found.files}
    place = found.place
    if place == Place():
        place = next((own for folder in within.absolute().parents[:4] if (own := _place_in_run(folder))), place)
    return Given(source, coder, found.kind, files, place, found.remarks)


def _place_in_run(folder: Path) -> Place | None:
    """The place of what lies in a run's folder: our own members do not say theirs."""
    if not is_run(folder):
        return None
    settings = Run.open(folder).settings
    model = settings.model
    return Place(model.name, model.layer, model.site, f"the run {folder}") if settings.origin.reads_text else None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fetched(source: str, path: Path) -> Path:
    """The folder in the hub's cache that an id ``owner/name`` or ``owner/name/folder`` names, fetched if need be."""
    owner, name, *inside = [*(part for part in source.split("/") if part), ""]
    inside = [part for part in inside if part]
    repository = f"{owner}/{name}"
    if not name or not hub.is_hub_id(repository) or source.startswith(("/", ".")):
        return path  # which the reader refuses, as it does not exist
    if not hub.is_reachable():
        return _kept(source, repository, "/".join(inside))
    try:
        wanted = _wanted(source, sorted(HfApi().list_repo_files(repository)), PurePosixPath(*inside))
        local = [Path(hf_hub_download(repository, file)) for file in wanted]
    except UserError:
        raise
    except Exception as error:  # the hub's client raises its own, the HTTP library's and the disk's exceptions
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise UserError(
            f"{short(source)} is no path, and cannot be fetched from the hub ({reason}); give a folder or an id."
        ) from None
    depth = len(PurePosixPath(wanted[0]).parts) - len(inside)
    return local[0].parents[depth - 1]


def _kept(source: str, repository: str, inside: str) -> Path:
    """The same without the hub, from its cache."""
    try:
        return Path(snapshot_download(repository, local_files_only=True)) / inside
    except Exception:  # of several kinds, all of which mean that nothing is there
        raise UserError(
            f"{short(source)} is no path, and the hub ({hub.endpoint()}) cannot be reached; give a folder or a file."
        ) from None


def _wanted(source: str, there: Sequence[str], inside: PurePosixPath) -> list[str]:
    """The files to fetch: those of the one SAE or ensemble in that folder, and what says of which model it is."""
    names = set(there)
    prefix = "" if inside == PurePosixPath() else f"{inside.as_posix()}/"
    run = [RUN] if RUN in names else []  # which says of which activations its ensembles are
    if f"{prefix}{MANIFEST}" in names:
        return [f"{prefix}{MANIFEST}", *(name for name in there if name.startswith(f"{prefix}member_")), *run]
    for each in formats():
        files = [f"{prefix}{file}" for file in each.files]
        if names.issuperset(files):
            beside = (inside.parent / "config.json").as_posix()
            return [*files, *([beside] if prefix and beside in names else []), *run]
    telling = {each.files[0] for each in formats()}
    held = sorted(name.removesuffix(f"/{file}") for name in there for file in telling if name.endswith(f"/{file}"))
    held = [name for name in held if name.startswith(prefix)]
    if not held:
        raise UserError(f"{short(source)} on the hub holds no SAE of a known format.")
    more = f", and {len(held) - 3} more" if len(held) > 3 else ""
    named = ", ".join(f"{'/'.join(source.split('/')[:2])}/{name}" for name in held[:3])
    raise UserError(
        f"{short(source)} on the hub is no SAE, but holds some ({named}{more}); give one or several of those."
    )


def together(given: Sequence[Given]) -> Place:
    """Which activations all of them were trained on.

    Raises:
        UserError: If two of them say that they were trained on different ones.
    """
    found = Place()
    for name in ("model", "layer", "site"):
        named = [each for each in given if getattr(each.place, name) is not None]
        for one, other in pairwise(named):
            mine, theirs = getattr(one.place, name), getattr(other.place, name)
            if mine != theirs and not (name == "model" and same_model(mine, theirs)):
                raise UserError(
                    f"{other.source} is of {name} {theirs}, but {one.source} of {name} {mine}; only SAEs of the same "
                    "activations can be members of one ensemble."
                )
        if named:
            found = replace(found, **{name: getattr(named[0].place, name)})
    return found


def same_model(one: str, other: str) -> bool:
    """Whether two names mean the same model: with and without owner, and as TransformerLens calls it."""
    names = [name.rpartition(":")[2].rpartition("/")[2].lower() for name in (one, other)]
    return len({{"gpt2-small": "gpt2"}.get(name, name) for name in names}) == 1


def in_a_list(given: Sequence[Given]) -> Ensemble | None:
    """The one ensemble that is given, if it is one and nothing else."""
    only = given[0].coder
    return only if len(given) == 1 and isinstance(only, Ensemble) else None
