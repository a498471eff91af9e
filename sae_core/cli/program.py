"""The command line: one program of all `commands`, which are thin: they read options, call the rooms below and print.

A new command is a function in a module of `commands` and a name in `COMMANDS`. Whatever imports torch is imported
inside it, so that the program starts at once.
"""

from __future__ import annotations

import os
import sys
import time

import typer

from sae_core.cli import console, labels
from sae_core.cli.after_training import evaluate, index
from sae_core.cli.demo import demo
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

COMMANDS = (demo, train, plan, index, evaluate, spurious, sweep, truth, report, dashboard, info)
"""In the order in which --help shows them."""
TOGETHER = ("train", "index")
"""Those that several processes do together; others would be done by each of them."""
USER_ERROR = 2
SPINS = "10000"
"""Rounds that idle threads of libgomp wait before they sleep, of 300,000; more slows all down beside other jobs."""

HEARD_SECONDS = 10.0
"""How long a process that is not the first waits before it ends: torchrun then ends all, and the first has to speak."""

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
app.add_typer(labels.app, name="labels")


def main() -> None:
    """Entry point: bad input, or a fault of the disk, ends in one sentence and exit code 2."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)  # read when torch is imported, which only the stages do
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
    """A sentence as one line: a line break in a name is shown as ``\\n``, and other control characters likewise."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in message)


def _refuse_unreadable(arguments: list[str]) -> None:
    """Refuse arguments that cannot be written into a run, and empty ones, which would name the folder one is in."""
    launch.rank()  # refuses an environment that no torchrun has made
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
    """Refuse to do in several processes what each of them would do again."""
    if launch.processes() > 1 and context.invoked_subcommand not in TOGETHER:
        names, asked = " and ".join(TOGETHER), context.invoked_subcommand
        raise UserError(f"Only {names} run in several processes; call {asked} without torchrun.")


if __name__ == "__main__":
    main()
