"""The exception that people see: one sentence that says what is wrong and how to fix it."""


class UserError(Exception):
    """Bad input, or a fault of the machine or the network.

    The message is one clear sentence that names the file, field or value and says what to do. The command line prints
    it without a traceback and ends with exit code 2.
    """


class ElsewhereError(UserError):
    """Another process of the same job has failed. The other process reports the fault, so this one prints nothing."""


def short(text: str) -> str:
    """Shorten a name or a value to one line that fits into a sentence."""
    shown = text if text.isprintable() and text.isascii() else text.encode("unicode_escape").decode("ascii")
    return shown if len(shown) <= 80 else f"{shown[:79]}…"
