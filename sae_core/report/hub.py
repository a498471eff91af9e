"""Publish a run on a Hugging Face hub, and fetch one from there."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

from sae_core.activations.origins.text.hub import endpoint, is_hub_id, is_reachable
from sae_core.foundation.errors import UserError
from sae_core.foundation.files.whole_files import parse_json
from sae_core.foundation.files.whole_folders import require_new
from sae_core.foundation.run import Run
from sae_core.report.model_card import model_card

WEIGHTS = (
    *("run.json", "truth.safetensors", "evaluation/*.json", "evaluation/*.parquet"),
    *("ensembles/*/ensemble.json", "ensembles/*/training.parquet", "ensembles/*/member_*"),
)
"""A run without the text that it was indexed on; patterns of `fnmatch`, in which * also takes slashes."""
WHOLE = (*WEIGHTS, "corpus/*", "ensembles/*", "evaluation/*", "report.html", "report.json")
PASSING = ("*/checkpoint/*", "*/shards/*", "*/.*", "*.partial", "*.tmp")
"""What lies in these folders only while something is under way."""
TEXTS = ("evaluation/spurious/*",)
"""What holds texts among these."""
LABELS = "labels.sqlite"
CARD = "README.md"


@dataclass(frozen=True, slots=True)
class Pulled:
    """What was fetched.

    Attributes:
        run: The run.
        commit: The state of the repository, by which the same files can be fetched again.
    """

    run: Run
    commit: str


def push(
    run: Run, repository: str, *, public: bool = False, weights_only: bool = False, with_labels: bool = False
) -> str:
    """Publish a run, with a page that introduces it. Files that are there and alike are not sent again.

    Activations, checkpoints and files that are no part of a run stay here.

    Args:
        run: A run with at least one trained ensemble.
        repository: ``owner/name``; it is made if it is not there.
        public: Whether everybody may see a repository that is made; otherwise it is private.
        weights_only: Leave out the indexed text and what was made of it.
        with_labels: Send people's labels too, with the names of those who wrote them.

    Returns:
        The repository's address.

    Raises:
        UserError: If nothing is trained, the repository holds another run, or the hub refuses.
    """
    if not run.ensembles():
        raise UserError(f"Nothing is trained in {run.path}; train it first.")
    if with_labels and not run.labels.exists():
        raise UserError(f"{run.path} holds no labels; leave --labels out.")
    _require_hub(repository)
    card = model_card(run, repository)
    api = HfApi(endpoint=endpoint())
    with _faults(repository):
        made = api.create_repo(repository, private=not public, exist_ok=True)
        there = api.model_info(repository)
        _refuse_another(api, run, repository, {file.rfilename for file in there.siblings or ()})
        api.upload_folder(
            repo_id=repository,
            folder_path=run.path,
            allow_patterns=list(WEIGHTS if weights_only else WHOLE),
            ignore_patterns=[*PASSING, *(TEXTS if weights_only else ())],
            commit_message=f"Publish the run {run.name}",
        )
        if with_labels:
            with _snapshot(run.labels) as labels:
                api.upload_file(repo_id=repository, path_or_fileobj=labels, path_in_repo=LABELS)
        # Last, as it says what the repository holds.
        api.upload_file(repo_id=repository, path_or_fileobj=card.encode(), path_in_repo=CARD)
    return str(made)


def pull(repository: str, path: Path, *, revision: str | None = None) -> Pulled:
    """Fetch a run into a new folder. What an interrupted call has fetched is kept beside it and used by the next one.

    Args:
        repository: ``owner/name``.
        path: A folder that does not exist, or an empty one.
        revision: A branch, tag or commit; by default the newest state.

    Raises:
        UserError: If the folder is taken, there is no such repository or no run in it, or the hub refuses.
    """
    place = require_new(path)
    _require_hub(repository)
    beside = place.with_name(f".{place.name}.pulled")
    with _faults(repository):
        api = HfApi(endpoint=endpoint())
        info = api.model_info(repository, revision=revision)
        files = {file.rfilename for file in info.siblings or ()}
        if "run.json" not in files:
            raise UserError(f"The repository {repository} holds no run (there is no run.json in it).")
        api.snapshot_download(
            repository,
            revision=info.sha,
            local_dir=beside,
            allow_patterns=[*WHOLE, LABELS],
            ignore_patterns=list(PASSING),
        )
    shutil.rmtree(beside / ".cache", ignore_errors=True)
    for stale in [each for each in beside.rglob("*") if each.is_file()]:
        if stale.relative_to(beside).as_posix() not in files:  # of an earlier state, fetched by an interrupted call
            stale.unlink()
    try:
        require_new(path)  # another call may have put its run there meanwhile
        _require_run(beside, repository)
        beside.replace(place)
    except UserError:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    return Pulled(Run.open(path), str(info.sha))


def _require_run(path: Path, repository: str) -> None:
    try:
        Run.open(path)
    except UserError:
        raise UserError(
            f"The run.json of {repository} is damaged or of a newer version; choose another --revision, or update."
        ) from None


def _require_hub(repository: str) -> None:
    if "/" not in repository or not is_hub_id(repository):
        raise UserError(f"{repository!r} is no repository of a hub; give owner/name.")
    if not is_reachable():
        raise UserError(f"The hub ({endpoint()}) cannot be reached; check the network and HF_HUB_OFFLINE.")


def _refuse_another(api: HfApi, run: Run, repository: str, files: set[str]) -> None:
    """Refuse to write over what is no earlier state of this run."""
    if "run.json" not in files:
        if files - {CARD, ".gitattributes"}:
            raise UserError(f"The repository {repository} holds something else; choose another name.")
        return
    with tempfile.TemporaryDirectory() as folder:
        there = parse_json(Path(api.hf_hub_download(repository, "run.json", local_dir=folder)).read_text("utf-8"))
    if not isinstance(there, dict) or there.get("id") != run.read_manifest().get("id"):
        raise UserError(f"The repository {repository} holds another run; choose another name.")


@contextmanager
def _snapshot(labels: Path) -> Iterator[Path]:
    """A copy of the labels as they are now, whoever is writing some."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / LABELS
        with closing(sqlite3.connect(labels)) as source, closing(sqlite3.connect(copy)) as target:
            source.backup(target)
        yield copy


@contextmanager
def _faults(repository: str) -> Iterator[None]:
    """Turn what the hub's client raises into one sentence."""
    try:
        yield
    except UserError:
        raise
    except GatedRepoError:
        raise UserError(f"{repository} is open only to those who were let in; ask for access on its page.") from None
    except RevisionNotFoundError:
        raise UserError(f"{repository} has no such revision; check --revision.") from None
    except RepositoryNotFoundError:
        raise UserError(
            f"The hub ({endpoint()}) has no repository {repository}, or hides it; check the name, and if it is private "
            "log in with hf auth login or set HF_TOKEN."
        ) from None
    except HfHubHTTPError as error:
        status = error.response.status_code
        remedy = "log in with hf auth login or set HF_TOKEN" if status in (401, 403) else "try again later"
        raise UserError(
            f"The hub ({endpoint()}) answered {status} for {repository} ({_first_line(error)}); {remedy}."
        ) from None
    except Exception as error:  # the HTTP library behind the hub's client changes between versions
        raise UserError(
            f"{repository} could not be exchanged with the hub ({_first_line(error)}); a second call goes on."
        ) from None


def _first_line(error: Any) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
