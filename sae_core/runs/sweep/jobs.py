"""Jobs in processes of their own, several at once: what they report, what they fail with, and Ctrl-C.

A process of its own gives back all its memory, and its peak is that of one run. It is out of the terminal's reach, so
that Ctrl-C comes to it once, from here; and it ends when it can no longer report, as after this process was killed.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple

from sae_core.foundation.errors import UserError
from sae_core.foundation.faults import disk_sentence
from sae_core.foundation.progress import Tick

REPORT_SECONDS = 0.2
"""Reports of one stage come this often at most."""
PRELOADED = ("torch._dynamo", "sae_core.training.train", "sae_core.analysis.evaluate")
"""What the process that all others are forked from imports once."""


class Job(NamedTuple):
    """What one process does: ``function(*arguments, progress=…)``, both to be pickled."""

    name: str
    function: Callable[..., None]
    arguments: tuple[Any, ...]


@dataclass(slots=True)
class _Running:
    job: Job
    process: BaseProcess
    reports: Connection
    slot: int


def run_jobs(
    jobs: Sequence[Job],
    *,
    at_once: int,
    tell: Callable[[str, Tick | None], None],
    environments: Sequence[dict[str, str]] = ({},),
) -> dict[str, str]:
    """Do jobs, some at once, in their order. One that fails stops no other.

    Args:
        jobs: The jobs, each with a name of its own.
        at_once: How many run at once.
        tell: Told the name of a job and its progress; None when it has ended, however it did.
        environments: Variables that are set for the processes, by turns.

    Returns:
        Of each job that failed, by its name, why.

    Raises:
        KeyboardInterrupt: After Ctrl-C, which is passed on to the jobs, when they have ended. A second one ends them.
    """
    context = _context()
    waiting, running, failures = list(reversed(jobs)), list[_Running](), dict[str, str]()
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                slot = min(set(range(at_once)) - {other.slot for other in running})
                running.append(_start(context, waiting.pop(), slot, environments[slot % len(environments)]))
            ready = wait([one.reports for one in running])
            for one in [one for one in running if one.reports in ready]:
                try:
                    kind, content = one.reports.recv()
                except (EOFError, OSError):
                    one.process.join()
                    kind, content = "failed", _ending(one.process.exitcode)
                if kind == "tick":
                    tell(one.job.name, content)
                    continue
                if kind == "failed":
                    failures[one.job.name] = content
                one.process.join()
                one.reports.close()
                running.remove(one)
                tell(one.job.name, None)
    except BaseException:
        _stop(running)
        raise
    return failures


def _context() -> Any:
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    return context


def _start(context: Any, job: Job, slot: int, environment: dict[str, str]) -> _Running:
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(there, job, environment), name=job.name)
    process.start()
    there.close()
    return _Running(job, process, here, slot)


def _stop(running: Sequence[_Running]) -> None:
    """Let the jobs end as after Ctrl-C, and end them if it comes again."""
    try:
        for one in running:
            if one.process.pid and one.process.is_alive():
                os.kill(one.process.pid, signal.SIGINT)
        for one in running:
            while one.process.is_alive():
                # Whoever reports into a full pipe that nobody reads would never end.
                if one.reports.poll(0.1):
                    one.reports.recv()
            one.process.join()
    except (EOFError, OSError):
        for one in running:
            one.process.join()
    except KeyboardInterrupt:
        for one in running:
            one.process.terminate()


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        why = ", as the system does where memory is full" if name == "SIGKILL" else ""
        return f"its process was ended by {name}{why}"
    return f"its process ended with exit code {code}; what it printed says why"


def _work(reports: Connection, job: Job, environment: dict[str, str]) -> None:
    """Do one job; the body of its process."""
    if hasattr(os, "setsid"):
        os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.update(environment)
    try:
        job.function(*job.arguments, progress=_Reports(reports))
    except UserError as error:
        reports.send(("failed", str(error)))
    except BrokenPipeError:  # nobody is there any more to report to
        return
    except OSError as error:
        reports.send(("failed", disk_sentence(error)))
    except KeyboardInterrupt:
        return
    except Exception as error:
        traceback.print_exc()
        reports.send(("failed", f"{type(error).__name__}: {error}"))
    else:
        reports.send(("done", None))


class _Reports:
    """A progress callback that sends what it is told, as far as it is news."""

    def __init__(self, reports: Connection) -> None:
        self._reports, self._stage, self._sent = reports, "", 0.0

    def __call__(self, tick: Tick) -> None:
        now = time.monotonic()
        finished = bool(tick.total) and tick.done >= tick.total
        news = tick.stage != self._stage or finished or tick.note
        if not news and now - self._sent < REPORT_SECONDS:
            return
        self._stage, self._sent = tick.stage, now
        self._reports.send(("tick", tick))
