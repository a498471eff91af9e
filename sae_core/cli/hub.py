"""The commands push and pull: publish a run on a Hugging Face hub, and fetch one from there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sae_core.cli import console
from sae_core.cli.common import RunPath, command_line, stoppable
from sae_core.foundation.run import Run

Repository = Annotated[str, typer.Argument(metavar="OWNER/NAME", help="A repository of the hub.", show_default=False)]


def push(
    run: RunPath,
    repository: Repository,
    public: Annotated[
        bool, typer.Option("--public", help="If the repository is made now, let everybody see it.")
    ] = False,
    weights_only: Annotated[
        bool, typer.Option("--weights-only", help="Leave out the indexed text and what was made of it.")
    ] = False,
    labels: Annotated[
        bool, typer.Option("--labels", help="Send people's labels too, with the names of those who wrote them.")
    ] = False,
) -> None:
    """Publish a run on a Hugging Face hub, with a page that introduces it.

    The indexed text is published too, unless --weights-only is given; the settings always are, with the paths that they
    name. HF_TOKEN or hf auth login says who you are, HF_ENDPOINT names another hub.
    """
    from sae_core.report import hub

    opened = Run.open(run)
    with stoppable(command_line("push", run, repository)):
        address = hub.push(opened, repository, public=public, weights_only=weights_only, with_labels=labels)
    console.say(f"Published {opened.name}: {address}")


def pull(
    repository: Repository,
    path: Annotated[Path, typer.Argument(help="A new folder for the run.", show_default=False)],
    revision: Annotated[str | None, typer.Option(help="A branch, tag or commit.")] = None,
) -> None:
    """Fetch a run from a Hugging Face hub. After an interruption, a second call continues."""
    from sae_core.report import hub

    with stoppable(command_line("pull", repository, path)):
        pulled = hub.pull(repository, path, revision=revision)
    console.say(f"Fetched {repository} at commit {pulled.commit} into {path}.")
    console.say(f"Next: {command_line('dashboard', path)}")
