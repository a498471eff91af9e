"""A PostgreSQL cluster for the tests, in a temporary folder, without a network port."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

PASSWORD = "se/cret@1"
QUOTED_PASSWORD = "se%2Fcret%401"


@contextmanager
def cluster() -> Iterator[str]:
    """The address of a fresh cluster that asks for a password; skips the test where there is no PostgreSQL."""
    pytest.importorskip("psycopg", reason="psycopg is not installed: pip install -e '.[test]'")
    programs = _programs()
    if programs is None:
        pytest.skip("no PostgreSQL is installed (Debian: apt-get install postgresql)")
    # The server refuses to run as root.
    user = _unprivileged() if os.getuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="labels-"))  # a socket's path may not be long
    try:
        (folder / "password").write_text(PASSWORD)
        if user:
            for path in (folder, folder / "password"):
                shutil.chown(path, user)
        quiet = {"user": user, "stdout": subprocess.DEVNULL, "stderr": subprocess.STDOUT, "cwd": folder, "check": True}
        subprocess.run(
            [
                *(programs / "initdb", "-D", "data", "-U", "team", "-A", "scram-sha-256", "--pwfile=password"),
                *("--no-sync", "--encoding=UTF8", "--no-locale"),
            ],
            **quiet,
        )
        options = f"-c listen_addresses='' -c fsync=off -k {folder}"
        control = [programs / "pg_ctl", "-D", "data", "-w", "-l", "log"]
        subprocess.run([*control, "-o", options, "start"], **quiet)
        try:
            yield f"postgresql://team:{QUOTED_PASSWORD}@/postgres?host={folder}"
        finally:
            subprocess.run([*control, "-m", "immediate", "stop"], **quiet)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _programs() -> Path | None:
    """The folder of the programs; Debian keeps them outside the search path."""
    found = shutil.which("initdb")
    if found:
        return Path(found).resolve().parent
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    return folders[-1].parent if folders else None


def _unprivileged() -> str:
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    pytest.skip("PostgreSQL does not run as root, and there is no other user")
