"""The SAE architectures that settings can name, read from the files of `sae/` without importing them, and so torch.

A class there declares in literal class attributes what is read here; one of somebody else's adds itself when defined.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, Field, create_model

from sae_core.foundation.settings import bounds

ROOM = Path(__file__).parents[2] / "sae"


@dataclass(frozen=True, slots=True)
class Declared:
    """What settings know of an architecture; `SAE` says what each of these is.

    Attributes:
        brief: A few words on it.
        settings: Names of the settings that it reads, beside those that all read.
        own_settings: Those of them that no other one has: kind (of `bounds`), default, what it is.
    """

    brief: str = ""
    settings: tuple[str, ...] = ()
    own_settings: Mapping[str, tuple[str, Any, str]] = field(default_factory=dict)


_READ = tuple(Declared.__dataclass_fields__)


def read_room(room: Path = ROOM) -> dict[str, Declared]:
    """The architectures that the files of a folder declare, by name."""
    classes: dict[str, tuple[list[str], dict[str, Any]]] = {}
    for path in sorted(room.glob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8"), str(path)).body:
            if isinstance(node, ast.ClassDef):
                bases = [base.id for base in node.bases if isinstance(base, ast.Name)]
                classes[node.name] = bases, _literals(node)

    def inherited(name: str) -> dict[str, Any]:
        bases, own = classes.get(name, ([], {}))
        found: dict[str, Any] = {}
        for base in reversed(bases):
            found |= inherited(base)
        return found | own

    named = {own["architecture"]: inherited(name) for name, (_, own) in classes.items() if "architecture" in own}
    return {name: Declared(**{key: found[key] for key in _READ if key in found}) for name, found in named.items()}


def _literals(node: ast.ClassDef) -> dict[str, Any]:
    """The class attributes that are read here; each has to be a literal."""
    return {
        target.id: ast.literal_eval(statement.value)
        for statement in node.body
        if isinstance(statement, ast.Assign | ast.AnnAssign) and statement.value is not None
        for target in (statement.targets if isinstance(statement, ast.Assign) else [statement.target])
        if isinstance(target, ast.Name) and target.id in ("architecture", *_READ)
    }


DECLARED: dict[str, Declared] = read_room()
"""The architectures by name."""


def fixes_l0(architecture: str) -> bool:
    """Whether the number of active features is set (``sae.k``), and not what follows from a penalty."""
    return reads(architecture, "k")


def reads(architecture: str, setting: str) -> bool:
    """Whether an architecture has a setting that not all have."""
    return architecture in DECLARED and setting in DECLARED[architecture].settings


def listed(setting: str | None = None, *, last: str = "and") -> str:
    """The names of the architectures, or of those that have a setting: ``batchtopk, matryoshka and topk``."""
    *names, final = [name for name in DECLARED if setting is None or reads(name, setting)]
    return f"{', '.join(names)} {last} {final}" if names else final


def described() -> str:
    """The names of the architectures, each with a few words."""
    return ", ".join(f"{name} ({found.brief})" if found.brief else name for name, found in DECLARED.items())


def _known(name: str) -> str:
    if name not in DECLARED:
        raise ValueError(f"it should be {listed(last='or')}")
    return name


Architecture = Annotated[str, AfterValidator(_known)]


def own_names() -> set[str]:
    """Names of the settings that only one architecture has."""
    return {name for found in DECLARED.values() for name in found.own_settings}


def with_own_settings(model: type[BaseModel]) -> type[BaseModel]:
    """A class of settings with those that only one architecture has as further fields."""
    fields: dict[str, Any] = {
        name: (getattr(bounds, kind), Field(default, description=text))
        for found in DECLARED.values()
        for name, (kind, default, text) in found.own_settings.items()
    }
    return create_model(model.__name__, __base__=model, __module__=model.__module__, __doc__=model.__doc__, **fields)
