"""The public face: every name in the stub is there, and importing the package imports nothing heavy."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import sae_core


def test_every_name_of_the_stub_is_what_its_module_holds() -> None:
    stub = ast.parse(Path(sae_core.__file__).with_suffix(".pyi").read_text())
    names = {alias.name for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert {"Run", "Ensemble", "load", "TopKSAE", "train", "evaluate"} <= names == set(dir(sae_core))
    for name in names:
        assert getattr(sae_core, name).__name__ == name


def test_importing_the_package_imports_nothing_heavy() -> None:
    told = "import sys, sae_core; print(*{'torch', 'pandas', 'numpy', 'pydantic'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
