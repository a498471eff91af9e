"""Malformed label files, and malformed addresses from people or links."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from app_pages import open_page
from command_line import Outcome, call

from dashboard.views import pages
from hostile.campaign import HUGE, Case, Fate, World, copied, fifo, scrambled

HEADER = "ensemble,member,latent,label,note,author,time\n"
GOOD = "bagged,0,1,good,,ada,2026-01-01T00:00:00+00:00\n"


def _contents() -> Iterator[tuple[str, bytes, Fate]]:
    """(what is wrong, content, what must come of it)."""
    yield "good", (HEADER + GOOD).encode(), "done"
    for name, row in {
        "an unknown ensemble": "nonsense,0,1,x,,a,",
        "an ensemble outside": "../bagged,0,1,x,,a,",
        "a member beyond the last": "bagged,99,1,x,,a,",
        "a feature beyond the last": "bagged,0,99999,x,,a,",
        "a negative feature": "bagged,0,-1,x,,a,",
        "a huge feature": f"bagged,0,{HUGE},x,,a,",
        "a feature that is a fraction": "bagged,0,1.5,x,,a,",
        "a feature that is a word": "bagged,0,one,x,,a,",
        "a feature that is not a number": "bagged,0,nan,x,,a,",
        "a feature that is infinite": "bagged,0,inf,x,,a,",
        "a feature in other digits": "bagged,0,٣,x,,a,",
        "a member that is true": "bagged,true,1,x,,a,",
        "no feature": "bagged,0,,x,,a,",
        "a label of 5,000 characters": f"bagged,0,1,{'x' * 5000},,a,",
        "a note of a million characters": f"bagged,0,1,x,{'n' * 1_000_000},a,",
        "an author of 5,000 characters": f"bagged,0,1,x,,{'a' * 5000},",
        "a time that is a word": "bagged,0,1,x,,a,yesterday",
        "a time in month 13": "bagged,0,1,x,,a,2026-13-01T00:00:00+00:00",
        "too many cells": "bagged,0,1,x,,a,,,,,,",
    }.items():
        yield name, (HEADER + GOOD + row + "\n").encode(), "refused"
    for name, row in {
        "a time of year 1": "bagged,0,1,x,,a,0001-01-01T00:00:00+14:00",
        "a time of year 9999": "bagged,0,1,x,,a,9999-12-31T23:59:59-14:00",
        "a time without a zone": "bagged,0,1,x,,a,2026-01-01T00:00:00",
        "a label with a NUL": "bagged,0,1,a\0b,,a,",
        "a label that is a formula": "bagged,0,1,=1+1,,a,",
        "markup": "bagged,0,1,<img src=x onerror=alert(1)>,<script>,a,",
        "text that changes its direction": "bagged,0,1,\u202eabc,,a,",
        "an empty label": "bagged,0,1,,,a,",
    }.items():
        yield name, (HEADER + row + "\n").encode(), "either"
    yield "one feature twice", (HEADER + GOOD + GOOD.replace("good", "other")).encode(), "refused"
    yield "empty", b"", "refused"
    yield "only a header", HEADER.encode(), "either"
    yield "no header", GOOD.encode(), "refused"
    yield "a column twice", (HEADER.replace("note", "label") + GOOD).encode(), "refused"
    yield "no ensemble column", b"member,latent,label\n0,1,x\n", "refused"
    yield "no label column", b"ensemble,member,latent\nbagged,0,1\n", "refused"
    yield "feature and latent that differ", b"ensemble,member,latent,feature,label\nbagged,1,1,1,x\n", "refused"
    yield "bad UTF-8", (HEADER + GOOD).encode() + b"bagged,0,2,\xff\xfe,,a,\n", "refused"
    yield "UTF-16", (HEADER + GOOD).encode("utf-16"), "refused"
    yield "a byte order mark", b"\xef\xbb\xbf" + (HEADER + GOOD).encode(), "done"
    yield "carriage returns", (HEADER + GOOD).replace("\n", "\r\n").encode(), "done"
    yield "an open quote", (HEADER + 'bagged,0,1,"open,,a,\n' + GOOD).encode(), "refused"
    yield "semicolons", (HEADER + GOOD).replace(",", ";").encode(), "done"
    yield "NULs", bytes(1000), "refused"
    yield "JSON", b'[{"ensemble": "bagged"}]', "refused"


def label_files(world: World) -> Iterator[Case]:
    """Files of labels to import."""
    run = copied(world.run, world.new())

    def imported(path: Path) -> Outcome:
        """Import, and check that a refusal left the labels as they were."""
        before = call("labels", "export", run).out
        outcome = call("labels", "import", run, path, "--existing", "replace")
        after = call("labels", "export", run)
        if outcome.code == 2 and after.out != before:
            return Outcome(1, "", "labels were changed by a file that was refused")
        return outcome if after.code == 0 else after

    def case(name: str, path: Path, fate: Fate) -> Case:
        return Case(
            f"labels: {name}", lambda: imported(path), fate, (path.name, "Line", "line", "row"), (run / "run.json",)
        )

    for name, content, fate in _contents():
        path = world.new(".csv")
        path.write_bytes(content)
        yield case(name, path, fate)
    for number in range(20):
        path = world.new(".csv")
        path.write_bytes(scrambled((HEADER + GOOD * 5).encode(), world.chance))
        yield case(f"scrambled {number}", path, "either")
    yield case("a pipe", fifo(world.new(".csv")), "refused")
    yield case("a device", Path("/dev/zero"), "refused")
    yield case("a folder", world.folder, "refused")


ODD = ("\0", "-1", HUGE, "nan", "'; --", "../../etc", "<img src=x onerror=alert(1)>", "\ufffd", "x" * 5000, "[[]]", "")


def addresses(world: World) -> Iterator[Case]:
    """Every page at addresses with odd values."""
    keys = ("run", "ensemble", "feature", "pins", "task", "member", "sort", "page", "search", "cluster", "family")

    def opened(page: str, query: dict[str, str]) -> Outcome:
        with pytest.MonkeyPatch.context() as patch:
            app = open_page(patch, world.run, page, **query)
        wrong = [element.value for element in app.exception]
        return Outcome(1, "", f"Traceback: {wrong[0]}") if wrong else Outcome(0, "", "")

    for page in pages():
        for _ in range(4):
            query = {key: world.chance.choice(ODD) for key in world.chance.sample(keys, 3)}
            shown = ", ".join(f"{key}={value[:12]!r}" for key, value in query.items())
            act = lambda page=page, query=query: opened(page, query)  # noqa: E731
            yield Case(f"page {page} at {shown}", act, "done", (), (world.run,))
