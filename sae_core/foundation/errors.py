"""The one exception that a person sees: bad input, said in one sentence with its remedy."""


class UserError(Exception):
    """Bad input or a fault of the surroundings.

    The message is one clear sentence that names the file, field or value and says what to do. The command line prints
    it without a traceback and ends with exit code 2.
    """


class ElsewhereError(UserError):
    """Another process that works on the same task has failed; that one says why, and this one says nothing."""


def short(text: str) -> str:
    """A name or a value as far as a sentence can hold it, on one line whatever is in it."""
    shown = text if text.isprintable() and text.isascii() else text.encode("unicode_escape").decode("ascii")
    return shown if len(shown) <= 80 else f"{shown[:79]}…"
