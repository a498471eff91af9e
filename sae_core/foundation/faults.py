"""Say in one sentence what went wrong in a command: wrong options, or faults of the disk."""

from __future__ import annotations

import errno
from typing import Any

import typer
from typer.core import TyperCommand

UsageError: Any = typer.BadParameter.__base__
"""The exception for a wrong option or argument; Typer exports only this subclass of the class."""


class OnceCommand(TyperCommand):
    """A command that refuses an option given twice; otherwise the second value would silently replace the first.

    An option that may be repeated takes several values, too, as shells write them for ``*.npy``, once all arguments of
    the command stand before it.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the command's arguments."""
        args = self._repeated(args)
        _, _, given = self.make_parser(ctx).parse_args(args=list(args))
        options = [each for each in given if each.param_type_name == "option" and not each.multiple]
        for number, option in enumerate(options):
            if option in options[:number]:
                ctx.fail(f"{option.opts[0]} is given twice; leave one of them out")
        return super().parse_args(ctx, args)

    def _repeated(self, args: list[str]) -> list[str]:
        """Write the option before each of its values."""
        takes_value = {name: each for each in self.params if _takes_value(each) for name in each.opts}
        wanted = sum(each.param_type_name == "argument" for each in self.params)
        found, option, values = list[str](), "", 0
        for arg in args:
            if option and values and not arg.startswith("-"):
                if takes_value[option].multiple and not wanted:
                    found.append(option)
                else:
                    option, wanted = "", wanted - 1
            elif arg.startswith("-"):
                option, values = (arg, 0) if arg in takes_value else ("", 0)
                found.append(arg)
                continue
            elif not option:
                wanted -= 1
            found.append(arg)
            values += 1
        return found


def _takes_value(parameter: Any) -> bool:
    return parameter.param_type_name == "option" and not parameter.is_flag


def usage_sentence(error: Any) -> str:
    """The sentence for a `UsageError`; empty if Typer has already printed the help because no command was given."""
    message = error.format_message().strip().rstrip(".")
    command = error.ctx.command_path if error.ctx else "sae-ensemble"
    joint = " See" if message.endswith("?") else "; see"
    return f"{message}{joint} {command} --help." if message else ""


def disk_sentence(error: OSError) -> str:
    """The sentence for a disk error: the file's name, the fault and the remedy."""
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
