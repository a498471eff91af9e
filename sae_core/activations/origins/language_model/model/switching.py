"""What a model's own code changes in the model when it is run, such as BigBird's attention on short texts, put back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import nn
from transformers.utils import logging

_TORCHS = frozenset(vars(nn.Module()))
"""What every module has; of these only ``training`` and the parts are looked at."""


class Switch(NamedTuple):
    """A setting that a run has changed.

    Attributes:
        name: What the model's code calls it.
        before: Its value before.
        after: Its value after.
    """

    name: str
    before: Any
    after: Any


@contextmanager
def unswitched(model: nn.Module) -> Iterator[list[Switch]]:
    """Put settings and parts of a model back as they were; the list says at the end which settings had changed.

    Settings are those of its configurations and the words, numbers and truth values that its modules keep. Other things
    that modules keep, such as tables of positions, are put back, too, but are no settings. What the code warns of
    meanwhile is not printed, as it would be at every run: whoever asks has the list.
    """
    kept = [(own, _kept(own)) for own in _holders(model)]
    parts = [(module, dict(module._modules)) for module in model.modules()]
    switches: list[Switch] = []
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield switches
    finally:
        logging.set_verbosity(verbosity)
        for module, before in parts:
            if module._modules != before:
                module._modules.clear()
                module._modules.update(before)
        for own, before in kept:
            for name, value in before.items():
                after = own.get(name)
                if after is not value and not (isinstance(value, str | int | float) and after == value):
                    if isinstance(value, str | bool):
                        switches.append(Switch(name, value, after))
                    own[name] = value


def _holders(model: nn.Module) -> Iterator[dict[str, Any]]:
    """Where settings are: in the modules and their configurations, each once."""
    seen: set[int] = set()
    for module in model.modules():
        for own in (module, getattr(module, "config", None)):
            if hasattr(own, "__dict__") and id(own) not in seen:
                seen.add(id(own))
                yield vars(own)


def _kept(own: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in own.items() if name not in _TORCHS or name == "training"}
