"""The short scripts of examples/ run as they are, and print what they say."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

from sae_core.foundation.settings.architectures import DECLARED
from sae_core.sae import ARCHITECTURES

EXAMPLES = Path(__file__).parents[2] / "examples"
PRINTED = {
    "train_on_an_array": ("Explained variance", "(1000, 384) codes, 12.0 features a row"),
    "bagged_or_boosted": ("single", "boosted", "accuracy with 5 features"),
    "features_of_a_run": ("<Feature ", "member", "cosine"),
    "labels_to_csv": ("run,ensemble,feature", "fires on"),
    "own_architecture": ("Explained variance",),
    "exchange_with_saelens": ("topk", "W_dec", "both "),
}


@pytest.mark.slow
def test_examples_run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)
    for name, expected in PRINTED.items():
        path = EXAMPLES / f"{name}.py"
        assert len(path.read_text().splitlines()) <= 40, name
        monkeypatch.setattr(sys, "argv", [str(path)])
        runpy.run_path(str(path), run_name="__main__")
        out = capsys.readouterr().out
        assert all(text in out for text in expected), (name, out)
    for registry in (ARCHITECTURES, DECLARED):  # that of own_architecture.py is no other test's business
        registry.pop("soft_threshold")  # type: ignore[attr-defined]
