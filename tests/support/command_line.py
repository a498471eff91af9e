"""Call the command line: within this process, which is quick, or as a separate program."""

from __future__ import annotations

import io
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest

from sae_core.cli import program as cli

PROGRAM = Path(sys.executable).with_name("sae-ensemble")
"""The installed entry point."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command left behind: its exit code and what it printed."""

    code: int
    out: str
    err: str


def call(*words: object) -> Outcome:
    """Run the entry point within this process. An exception that it lets through fails the test."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["sae-ensemble", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    code = ended.value.code
    assert code is None or isinstance(code, int), code
    return Outcome(code or 0, out.getvalue(), err.getvalue())


def run_program(*words: object) -> Outcome:
    """Run the installed program and wait for its end."""
    done = subprocess.run([PROGRAM, *map(str, words)], capture_output=True, text=True, check=False)
    return Outcome(done.returncode, done.stdout, done.stderr)


def start_program(*words: object) -> subprocess.Popen[str]:
    """Start the installed program in a process group of its own, its standard error to be read."""
    return subprocess.Popen(
        [PROGRAM, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def refused(outcome: Outcome, *words: str) -> str:
    """Check that a command ended with one sentence on standard error that holds ``words``; returns it."""
    lines = outcome.err.strip().splitlines()
    errors = [line for line in lines if line.startswith("Error: ")]
    assert outcome.code == 2, outcome
    assert outcome.out == ""
    assert "Traceback" not in outcome.err
    # Lines of progress may come before it, nothing after it.
    assert errors == lines[-1:], outcome.err
    assert all(word in errors[0] for word in words), errors[0]
    assert errors[0].endswith(".")
    return errors[0]


def run_together(size: int, *words: object) -> Outcome:
    """Run the module in that many processes, as torchrun starts them, and wait for their end."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(size)]
    done = subprocess.run([*launcher, "-m", "sae_core", *map(str, words)], capture_output=True, text=True, check=False)
    return Outcome(done.returncode, done.stdout, done.stderr)
