"""What goes wrong in a command as one sentence: wrong options, and faults of the disk."""

from __future__ import annotations

import errno
from typing import Any

import typer
from typer.core import TyperCommand

UsageError: Any = typer.BadParameter.__base__
"""What a wrong option or argument raises; Typer exports only this subclass of it."""


class OnceCommand(TyperCommand):
    """A command that refuses an option that is given twice, of which the second would take the first's place."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse what is given to the command."""
        _, _, given = self.make_parser(ctx).parse_args(args=list(args))
        options = [each for each in given if each.param_type_name == "option" and not each.multiple]
        for number, option in enumerate(options):
            if option in options[:number]:
                ctx.fail(f"{option.opts[0]} is given twice; leave one of them out")
        return super().parse_args(ctx, args)


def usage_sentence(error: Any) -> str:
    """The sentence for a `UsageError`; empty where Typer has printed the help, as it does without any command."""
    message = error.format_message().strip().rstrip(".")
    command = error.ctx.command_path if error.ctx else "sae-ensemble"
    joint = " See" if message.endswith("?") else "; see"
    return f"{message}{joint} {command} --help." if message else ""


def disk_sentence(error: OSError) -> str:
    """The sentence for a fault of the disk, with the file's name and what to do."""
    where = error.filename or "standard output"
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return f"The disk is full (writing {where}); free some space and run the command again, it goes on."
        case errno.EFBIG:
            return f"{where} grew larger than this disk or account allows; lift that limit and run the command again."
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return f"{where} may not be written; choose a folder that you may write to."
        case errno.ENOTDIR | errno.EEXIST:
            return f"{where} lies where a folder is needed; choose another folder."
        case _:
            return f"{where}: {error.strerror or error}."
