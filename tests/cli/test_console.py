"""Progress on the command line: lines with rate, time left and figures if there is no terminal."""

import json

from sae_core.cli import console
from sae_core.foundation.progress import Tick


def test_lines_carry_rate_time_left_and_figures(monkeypatch, capsys):
    clock = iter([0.0, 10.0, 12.0, 20.0])
    monkeypatch.setattr(console.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(console, "errors", console.Console(stderr=True, highlight=False, soft_wrap=True))
    progress = console._Lines()
    progress(Tick("train [bagged]", 0, 100_000))
    progress(Tick("train [bagged]", 50_000, 100_000, figures={"explained variance": 0.912}))
    progress(Tick("train [bagged]", 60_000, 100_000))
    progress(Tick("train [bagged]", 100_000, 100_000))
    lines = capsys.readouterr().err.splitlines()
    assert lines[1] == "train [bagged]  50 %  5.0k tokens/s  0:10 left  explained variance 0.912"
    assert lines[2] == "train [bagged]  100 %  5.0k tokens/s"
    assert len(lines) == 3  # the tick at 12 s came too early after the one at 10 s


def test_bars_survive_unknown_totals_and_markup_in_names(monkeypatch):
    monkeypatch.setattr(console, "errors", console.Console(force_terminal=True, file=open("/dev/null", "w")))  # noqa: SIM115, PTH123
    with console.drawn_progress() as progress:
        progress(Tick("read [/] text", 1, 0, unit="characters"))
        progress(Tick("train", 1, 2, figures={"explained variance": 0.5}))
        progress(Tick("train", 2, 2))


def test_json_goes_to_standard_output_alone(capsys):
    console.print_json({"β": [1, None]})
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"β": [1, None]}
    assert captured.err == ""


def test_no_figure_is_cut_in_a_narrow_terminal(monkeypatch, capsys):
    monkeypatch.setattr(console, "output", console.Console(highlight=False, width=30))
    names = ("single", "stage 1 + random stages")
    console.print_rows(
        [{"ensemble": name, "explained variance": f"0.123{n} ± 0.045", "L0": "–"} for n, name in enumerate(names)],
        title="",
    )
    shown = capsys.readouterr().out
    assert all(f"0.123{number} ± 0.045" in shown for number in range(2))
    assert {"single", "stage 1 +", "random", "stages", "explained", "variance"} <= {
        cell.strip() for line in shown.splitlines() for cell in line.replace("┃", "│").split("│")
    }
