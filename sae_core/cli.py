"""The command line. Commands are thin: they read options, call the rooms below and print what came out."""

from __future__ import annotations

import errno
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sae_core import console, launch, pipeline
from sae_core.config import DEMO, RunSettings, load_settings
from sae_core.errors import ElsewhereError, UserError
from sae_core.options import AsJson, Assignments, Chosen, choose_places, parse_assignments, takes_settings
from sae_core.planning.machines import FOUND, MACHINES
from sae_core.run import Run, find_runs
from sae_core.serve import LAST_PORT, serve_dashboard

if TYPE_CHECKING:
    from sae_core.training.processes import Processes

app = typer.Typer(
    help="Train, evaluate and browse bagged and boosted ensembles of sparse autoencoders.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
labels_app = typer.Typer(help="Export people's labels to CSV, or import them.", no_args_is_help=True)
app.add_typer(labels_app, name="labels")

USER_ERROR, STOPPED = 2, 130
SPINS = "10000"
"""Rounds that idle threads of libgomp wait before they sleep, of 300,000; more slows all down beside other jobs."""
_UsageError: Any = typer.BadParameter.__base__
"""What a wrong option or argument raises; Typer exports only this subclass of it."""


def main() -> None:
    """Entry point: bad input, or a fault of the disk, ends in one sentence and exit code 2."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)  # read when torch is imported, which only the stages do
    try:
        sys.exit(app(standalone_mode=False, prog_name="sae-ensemble"))
    except UserError as error:
        message = str(error)
    except _UsageError as error:
        message = _usage_sentence(error)
    except OSError as error:
        message = _disk_sentence(error)
    if message:
        console.say(f"Error: {message}")
    sys.exit(USER_ERROR)


def _usage_sentence(error: Any) -> str:
    """Empty where Typer has printed the help instead, as it does when no command is given."""
    message = error.format_message().strip().rstrip(".")
    command = error.ctx.command_path if error.ctx else "sae-ensemble"
    joint = " See" if message.endswith("?") else "; see"
    return f"{message}{joint} {command} --help." if message else ""


def _disk_sentence(error: OSError) -> str:
    where = error.filename or "standard output"
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return f"The disk is full (writing {where}); free some space and run the command again, it goes on."
        case errno.EFBIG:
            return f"{where} grew larger than this disk or account allows; lift that limit and run the command again."
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return f"{where} may not be written; choose a folder that you may write to."
        case errno.ENOTDIR | errno.EEXIST:
            return f"{where} lies where a folder is needed; choose another folder."
        case _:
            return f"{where}: {error.strerror or error}."


RunPath = Annotated[Path, typer.Argument(help="The run folder.", show_default=False)]
Layers = Annotated[
    str | None,
    typer.Option(
        metavar="N,N,…",
        help="Comma-separated: train a run for each of these layers, in a folder of its own inside the run folder. The "
        "model reads the text once for all.",
    ),
]
Sites = Annotated[str | None, typer.Option(metavar="SITE,…", help="The same for several sites of each layer.")]
Port = Annotated[
    int,
    typer.Option(min=1, max=LAST_PORT, help="Port of the dashboard; if it is taken, the next free one is used."),
]
Host = Annotated[
    str, typer.Option(help="Address to listen on. Anyone who can reach it can read the run and write labels.")
]


@app.command()
def demo(
    run: Annotated[Path, typer.Option("--run", help="Where the run is kept; called again, it goes on there.")] = Path(
        "runs/demo"
    ),
    serve: Annotated[bool, typer.Option("--serve/--no-serve", help="Serve the dashboard at the end.")] = True,
    port: Port = 8501,
    host: Host = "localhost",
    assignments: Assignments = None,
    as_json: AsJson = False,
) -> None:
    """Train, evaluate and browse ensembles on the embedded text and model; needs no network, takes some minutes."""
    opened = _open_or_create(run, Chosen(None, parse_assignments(assignments)), start=load_settings(overrides=DEMO))
    with _stoppable(_command("demo", "--run", run)), console.drawn_progress() as progress:
        pipeline.run_everything(opened, progress=progress)
    _print_summary(opened, as_json=as_json)
    if serve:
        serve_dashboard(run, port=port, host=host, announce=console.say)


@app.command()
@takes_settings
def train(run: RunPath, chosen: Chosen, layers: Layers = None, sites: Sites = None, as_json: AsJson = False) -> None:
    """Gather activations and train the ensembles. Stopped, it goes on where it was.

    Started by torchrun (torchrun --nproc-per-node 2 -m sae_core train RUN), several processes train together.
    """
    with _started_together() as processes:
        opened = _open_for_training(run, chosen, layers, sites, processes)
        with _stoppable(_command("train", run)), console.drawn_progress() as progress:
            if processes:
                pipeline.train(opened[0], progress=progress, processes=processes)
            else:
                pipeline.train_together(opened, progress=progress)
    if launch.rank():
        return
    facts = {
        each.name: {folder.name: each.facts(f"train/{folder.name}") for folder in each.ensembles()} for each in opened
    }
    if as_json:
        _print_by_run(facts)
        return
    for each in opened:
        seconds = ", ".join(f"{name} {fact.get('seconds', 0):.0f} s" for name, fact in facts[each.name].items())
        peak = max((fact.get("peak_memory_bytes", 0) for fact in facts[each.name].values()), default=0)
        memory = f"; peak memory {peak / 1e9:.1f} GB" if peak else ""
        console.say(f"Trained in {each.path}: {seconds}{memory}.")
    console.say(f"Next: {_command('index', run)}")


@app.command()
@takes_settings
def plan(
    chosen: Chosen,
    run: Annotated[Path, typer.Argument(help="Where the run is to be kept; nothing is written there.")] = Path("runs"),
    machine: Annotated[
        str, typer.Option(help=f"found (this machine, measured for some seconds) or a name: {', '.join(MACHINES)}.")
    ] = FOUND,
    as_json: AsJson = False,
) -> None:
    """Say what train, index and evaluate would take: time, memory, disk and arithmetic. Takes the options of train."""
    from sae_core.planning import report
    from sae_core.planning.plan import make_plan

    with console.drawn_progress() as progress:
        made = make_plan(_settings(run, chosen), machine=machine, folder=run, progress=progress)
    if as_json:
        console.print_json(made.as_json())
        return
    console.print_rows(
        report.table(made), title=f"Plan for {made.work.settings.model.name} on {made.work.machine.name}"
    )
    for sentence in report.sentences(made):
        console.say(sentence)


@app.command()
def index(run: RunPath, as_json: AsJson = False) -> None:
    """Index every activation by feature, match features over members and map the atoms, for the dashboard."""
    opened = _trained(run)
    with _stoppable(_command("index", run)), console.drawn_progress() as progress:
        for each in opened:
            pipeline.prepare(each, progress=progress)
    facts = {
        each.name: {folder.name: each.facts(f"index/{folder.name}") for folder in each.ensembles()} for each in opened
    }
    if as_json:
        _print_by_run(facts)
        return
    for name, ensembles in facts.items():
        console.say(f"Indexed {', '.join(ensembles)}{f' of {name}' if len(facts) > 1 else ''}.")
    console.say(f"Next: {_command('evaluate', run)}, {_command('dashboard', run)}")


@app.command()
def evaluate(
    run: RunPath,
    task: Annotated[
        list[Path] | None, typer.Option(help="Also detect the labels in this CSV, JSONL or Parquet file; repeatable.")
    ] = None,
    text_column: Annotated[str, typer.Option(help="Column of --task that holds the text.")] = "text",
    label_column: Annotated[str, typer.Option(help="Column of --task that holds the label.")] = "label",
    as_json: AsJson = False,
) -> None:
    """Measure reconstruction, dictionaries, concept detection and cost."""
    opened = _trained(run)
    with _stoppable(_command("evaluate", run)), console.drawn_progress() as progress:
        for each in opened:
            pipeline.evaluate(each, progress=progress)
            for path in task or []:
                pipeline.evaluate_task(
                    each, path, text_column=text_column, label_column=label_column, progress=progress
                )
    if as_json:
        _print_by_run({each.name: _summary(each) for each in opened})
        return
    for each in opened:
        _print_summary(each, as_json=False)


@app.command()
def dashboard(
    path: Annotated[Path, typer.Argument(help="A run folder, or a folder of runs.", show_default=False)],
    port: Port = 8501,
    host: Host = "localhost",
) -> None:
    """Serve the dashboard."""
    find_runs(path)
    serve_dashboard(path, port=port, host=host, announce=console.say)


@app.command()
def info(run: RunPath, as_json: AsJson = False) -> None:
    """Say what a run is, what in it is finished and what it measured."""
    opened = Run.open(run)
    if as_json:
        console.print_json({**opened.manifest, "summary": _summary(opened)})
        return
    settings = opened.settings
    console.say(f"Run {opened.name}: {settings.model.name}, {settings.model.site} after block {settings.model.layer}")
    console.say(f"Text: {settings.text.source}; SAE: {settings.sae.architecture}, width {settings.sae.width}")
    console.say(f"Finished: {', '.join(opened.manifest['finished']) or 'nothing yet'}")
    for done, command in (
        (pipeline.is_trained(opened), "train"),
        (pipeline.is_prepared(opened), "index"),
        (pipeline.is_evaluated(opened), "evaluate"),
    ):
        if not done:
            console.say(f"Not finished; to go on: {_command(command, run)}")
            break
    _print_summary(opened, as_json=False)


@labels_app.command("export")
def export_labels(
    run: RunPath,
    out: Annotated[Path | None, typer.Option(help="The CSV file to write; standard output if not given.")] = None,
) -> None:
    """Write all labels as CSV: run, ensemble, member, feature, label, note, author, time."""
    from sae_core.browse.labels import LabelStore
    from sae_core.files import write_text

    opened = Run.open(run)
    csv = LabelStore(opened.labels, opened.name).to_csv()
    if out is None:
        sys.stdout.write(csv)
    else:
        write_text(out, csv)
        console.say(f"Wrote {out}.")


@labels_app.command("import")
def import_labels(
    run: RunPath, file: Annotated[Path, typer.Argument(help="A CSV file with the columns that export writes.")]
) -> None:
    """Read labels from CSV, all or none; a label that is already there is replaced."""
    from sae_core.browse.labels import LabelStore
    from sae_core.files import read_json, read_text

    opened = Run.open(run)
    widths = {folder.name: read_json(folder.manifest)["widths"] for folder in opened.ensembles()}
    count = LabelStore(opened.labels, opened.name).from_csv(read_text(file), widths)
    console.say(f"Imported {count} labels.")


def _open_or_create(path: Path, chosen: Chosen, *, start: RunSettings | None = None) -> Run:
    """The run at ``path``, made if there is none. What is not given is as in a begun run, else as in ``start``."""
    nothing_given = chosen.config is None and not chosen.overrides
    if nothing_given and (path / "run.json").exists():
        return Run.open(path)
    return Run.create(path, _settings(path, chosen, start))


def _settings(path: Path, chosen: Chosen, start: RunSettings | None = None) -> RunSettings:
    there = Run.open(path) if (path / "run.json").exists() else None
    if there and chosen.config is None and not chosen.overrides:
        return there.settings
    base = there.settings if there and there.manifest["finished"] else start
    return load_settings(chosen.config, chosen.overrides, base=base)


@app.callback()
def _refuse_repetition(context: typer.Context) -> None:
    """Refuse to do in several processes what each of them would do again."""
    if launch.processes() > 1 and context.invoked_subcommand != "train":
        raise UserError(f"Only train runs in several processes; call {context.invoked_subcommand} without torchrun.")


@contextmanager
def _started_together() -> Iterator[Processes | None]:
    """The processes that torchrun has started, if it has. The first one's errors are said by `main`."""
    if launch.processes() == 1:
        yield None
        return
    from sae_core.training.processes import joined

    try:
        with joined() as processes:
            yield processes
    except (UserError, OSError) as error:
        if launch.rank() and not isinstance(error, ElsewhereError):
            console.complain(_disk_sentence(error) if isinstance(error, OSError) else str(error))
        raise


def _open_for_training(
    path: Path, chosen: Chosen, layers: str | None, sites: str | None, processes: Processes | None
) -> list[Run]:
    """The run, or those of several layers and sites."""
    if processes:
        if layers or sites or _is_folder_of_runs(path):
            raise UserError("Several processes train one run; train the runs of several layers one after another.")
        return [_open_together(path, chosen, processes)]
    if layers or sites:
        return [_open_or_create(folder, own) for folder, own in choose_places(path, chosen, layers, sites).items()]
    if chosen.config is None and not chosen.overrides and _is_folder_of_runs(path):
        return [Run.open(found) for found in find_runs(path)]
    return [_open_or_create(path, chosen)]


def _open_together(path: Path, chosen: Chosen, processes: Processes) -> Run:
    """The run, made or opened by the first process and then opened by all."""
    processes.first(lambda: _open_or_create(path, chosen))
    processes.require_same_folder(path)
    return processes.together(lambda: Run.open(path))


def _command(*words: object) -> str:
    """A command line to copy."""
    return shlex.join(["sae-ensemble", *map(str, words)])


@contextmanager
def _stoppable(command: str) -> Iterator[None]:
    """Ctrl-C ends the work with a sentence that says how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        console.say(f"Stopped; what is finished is kept. To go on: {command}")
        raise typer.Exit(STOPPED) from None


def _is_folder_of_runs(path: Path) -> bool:
    return not (path / "run.json").exists() and any(path.glob("*/run.json"))


def _trained(path: Path) -> list[Run]:
    runs = [Run.open(found) for found in (find_runs(path) if _is_folder_of_runs(path) else [path])]
    for run in runs:
        if not run.ensembles():
            raise UserError(f"{run.path} has no trained ensemble yet; run: {_command('train', path)}")
    return runs


def _print_by_run(values: dict[str, Any]) -> None:
    """JSON of one run as it is, and of several by their names."""
    console.print_json(values if len(values) > 1 else next(iter(values.values())))


def _summary(run: Run) -> list[dict[str, Any]]:
    if not run.ensembles():
        return []
    from sae_core.evaluation.summary import summarize

    return summarize(run)


def _print_summary(run: Run, *, as_json: bool) -> None:
    rows = _summary(run)
    if as_json:
        console.print_json(rows)
    elif rows:
        from sae_core.evaluation.summary import as_text

        console.print_rows([as_text(row) for row in rows], title=f"{run.name}: {run.path}")


if __name__ == "__main__":
    main()
