"""The command line: one program with all commands. A command reads options, calls the rooms below and prints.

A new command is a function in a module of this folder and a name in `COMMANDS`. A command imports torch inside its
function, so that the program starts at once.
"""

from __future__ import annotations

import os
import sys
import time

import typer

from sae_core.cli import console, labels
from sae_core.cli.after_training import evaluate, index
from sae_core.cli.demo import demo
from sae_core.cli.export import export
from sae_core.cli.features import features
from sae_core.cli.hub import pull, push
from sae_core.cli.importing import compare, import_saes
from sae_core.cli.joint_map import joint_map
from sae_core.cli.look import dashboard, info
from sae_core.cli.plan import plan
from sae_core.cli.report import report
from sae_core.cli.spurious import spurious
from sae_core.cli.sweep import sweep
from sae_core.cli.train import train
from sae_core.cli.truth import truth
from sae_core.foundation.errors import UserError
from sae_core.foundation.faults import OnceCommand, UsageError, disk_sentence, usage_sentence
from sae_core.foundation.machine import launch

COMMANDS = (
    demo,
    train,
    plan,
    index,
    evaluate,
    spurious,
    sweep,
    truth,
    compare,
    report,
    dashboard,
    info,
    export,
    features,
    push,
    pull,
)
"""The commands, in the order of --help."""
TOGETHER = ("train", "index")
"""Commands that several processes run together; every process would repeat any other command."""
USER_ERROR = 2
SPINS = "10000"
"""How long idle threads of libgomp spin before they sleep (default 300,000); a longer wait slows other jobs down."""
HEARD_SECONDS = 10.0
"""Seconds that a failing process waits if it is not the first: its end makes torchrun end all, before the first one
can print."""

app = typer.Typer(
    help="Train, evaluate and browse bagged and boosted ensembles of sparse autoencoders.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _command in COMMANDS:
    app.command(cls=OnceCommand)(_command)
app.command("map", cls=OnceCommand)(joint_map)
app.command("import", cls=OnceCommand)(import_saes)
app.add_typer(labels.app, name="labels")


def main() -> None:
    """Run the program; bad input or a disk error ends it with one sentence and exit code 2."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)  # libgomp reads it when torch is imported
    try:
        _refuse_unreadable(sys.argv[1:])
        sys.exit(app(standalone_mode=False, prog_name="sae-ensemble"))
    except UserError as error:
        message = str(error)
    except UsageError as error:
        message = usage_sentence(error)
    except OSError as error:
        message = disk_sentence(error)
    if message:
        console.say(f"Error: {_one_line(message)}")
    if launch.is_another():
        time.sleep(HEARD_SECONDS)
    sys.exit(USER_ERROR)


def _one_line(message: str) -> str:
    """Put a message on one line: show a line break in a name as ``\\n``, and other control characters likewise."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in message)


def _refuse_unreadable(arguments: list[str]) -> None:
    """Refuse arguments that cannot be written into a run, and empty arguments, which would mean the current folder."""
    launch.rank()  # refuses malformed variables of torchrun
    for number, argument in enumerate(arguments, start=1):
        if not argument:
            raise UserError(f"Argument {number} is empty; give a name or a value, or leave it out.")
        try:
            argument.encode("utf-8")
        except UnicodeEncodeError:
            shown = argument.encode("utf-8", "surrogateescape")
            raise UserError(f"Argument {number} is not UTF-8: {shown!r}; rename the file, or write it so.") from None


@app.callback()
def _refuse_repetition(context: typer.Context) -> None:
    """Refuse a command that every one of several processes would repeat."""
    if launch.processes() > 1 and context.invoked_subcommand not in TOGETHER:
        names, asked = " and ".join(TOGETHER), context.invoked_subcommand
        raise UserError(f"Only {names} run in several processes; call {asked} without torchrun.")


if __name__ == "__main__":
    main()
