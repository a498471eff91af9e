"""Bad input to the command line: one sentence, exit code 2, no half-written files, and a remedy that works."""

from __future__ import annotations

import os
import re
import resource
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from command_line import call, refused, run_program

from sae_core.foundation.files.whole_files import read_json, write_json
from sae_core.foundation.run import Run

TEXTS = "text,label\n" + "".join(f"word {number} of many,{number % 2}\n" for number in range(60))


@pytest.fixture
def run(tmp_path: Path, trained_run: Run) -> Path:
    """A copy of the trained run, to be damaged."""
    return Path(shutil.copytree(trained_run.path, tmp_path / "run"))


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts.csv"
    path.write_text(TEXTS)
    return path


def leftovers(folder: Path) -> list[Path]:
    """What writers that did not come to their end left behind."""
    return [path for path in folder.rglob("*") if path.name.startswith(".") or path.name.endswith(".partial")]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--nope", r"No such option: --nope; see sae-ensemble --help\."),
        ("paint", r"No such command 'paint'.* [Ss]ee sae-ensemble --help\."),
        ("train", r"Missing argument 'run'; see sae-ensemble train --help\."),
        ("train RUN --wdith 3", r"No such option: --wdith .*--width.*; see sae-ensemble train --help\."),
        ("train RUN --k many", r"Invalid value for '--k': .*integer.*"),
        ("train RUN --k 9 --width 8", r"sae\.k is 9 but sae\.width only 8"),
        ("train RUN --width -1", r"Setting sae\.width in the command line .*given: -1"),
        ("train RUN --architecture gated", r"Setting sae\.architecture .*relu or topk .*given: 'gated'"),
        ("train RUN --methods bagged,stacked", r"Setting training\.methods\.1 .*'boosted'.*given: 'stacked'"),
        ("train RUN --set sae.widht=3", r"Unknown setting sae\.widht in the command line; known there: .*width.*"),
        ("train RUN --set saes.width=3", r"Unknown setting saes.* in the command line; known there: .*sae.*"),
        ("train RUN --set width=3", r"--set width=3 is not of the form section\.name=value"),
        ("train RUN --set sae.width", r"--set sae\.width is not of the form section\.name=value"),
        ("train RUN --config TOML", r"Unknown setting sae\.widht in TOML; known there: .*width.*"),
        ("train RUN --config MISSING", r"The settings file MISSING does not exist"),
        ("demo --run RUN --port 0", r"Invalid value for '--port'.*"),
        ("demo --run RUN --port 65536 --set sae.k=3", r"Invalid value for '--port'.*65535.*"),
        ("train RUN --set sae.k=3 --set sae.k=4", r"--set sae\.k is given twice"),
        ("train ''", r"Argument 2 is empty"),
        ("train RUN --methods single,single", r"training\.methods names single twice"),
        ("truth RUN --seeds 3 --set training.seed=4294967294", r"--seeds 3 from seed 4294967294 on goes beyond"),
        ("sweep RUN --vary sae.k=1,2 --target nan", r"Invalid value for '--target'"),
        ("info RUN", r"RUN holds no run .*"),
        ("index RUN", r"RUN holds no run .*"),
        ("evaluate RUN", r"RUN holds no run .*"),
        ("labels export RUN", r"RUN holds no run .*"),
        ("dashboard RUN", r"RUN holds no run, nor does a folder in it.*"),
    ],
)
def test_wrong_words_make_no_folder(tmp_path: Path, words: str, sentence: str) -> None:
    paths = {"RUN": tmp_path / "run", "TOML": tmp_path / "settings.toml", "MISSING": tmp_path / "missing.toml"}
    paths["TOML"].write_text("[sae]\nwidht = 3\n")
    for name, path in paths.items():
        words, sentence = words.replace(name, str(path)), sentence.replace(name, re.escape(str(path)))
    said = refused(call(*shlex.split(words)))
    assert re.search(sentence, said), said
    assert not paths["RUN"].exists()


def test_arguments_that_are_not_utf8_are_refused(tmp_path: Path) -> None:
    said = refused(run_program("train", os.fsdecode(os.fsencode(tmp_path) + b"/r\xff")), "Argument 2 is not UTF-8")
    assert "\\xff" in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", ["two", "-1", "9" * 5000, ""])
def test_a_malformed_environment_is_named(value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("WORLD_SIZE", "RANK"):
        with monkeypatch.context() as patch:
            patch.setenv(variable, value)
            refused(run_program("info", tmp_path), variable)


def test_the_program_itself_ends_with_the_sentence_and_code_two(tmp_path: Path) -> None:
    refused(run_program("info", tmp_path / "nowhere"), "nowhere")
    refused(run_program("train", tmp_path / "run", "--frobnicate"), "--frobnicate")


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("--text MISSING --model MODEL --layer 1", ("missing.csv", "does not exist")),
        ("--text TEXTS --text-column body --model MODEL --layer 1", ("texts.csv", "'body'", "text, label")),
        ("--text TEXTS --model nobody/nothing", ("'nobody/nothing'", "cannot be reached")),
        ("--text TEXTS --model ./nowhere", ("./nowhere", "neither a folder nor a hub id")),
        ("--text TEXTS --model MODEL --layer 3", ("3 layers", "0 to 2", "not 3")),
        ("--text TEXTS --model MODEL --device cuda:99", ("cuda:99",)),
    ],
)
def test_wrong_text_or_model_can_be_corrected_in_the_same_folder(
    tmp_path: Path, texts: Path, small_model: Path, words: str, found: tuple[str, ...]
) -> None:
    paths = {"TEXTS": texts, "MISSING": tmp_path / "missing.csv", "MODEL": small_model}
    for name, path in paths.items():
        words = words.replace(name, str(path))
    run = tmp_path / "run"
    refused(call("train", run, *shlex.split(words)), *found)
    assert [path.name for path in run.iterdir()] == ["run.json"]
    # With the first mistake corrected the next one is reported, and not that the settings differ.
    refused(call("train", run, "--text", texts, "--model", small_model, "--layer", 7), "0 to 2", "not 7")


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, texts: Path, small_model: Path) -> None:
    # Not by permissions, which do not hold for root.
    file = tmp_path / "file"
    file.write_text("mine")
    words = ["--text", texts, "--model", small_model]
    refused(call("train", file, *words), str(file), "choose another folder")
    refused(call("train", file / "run", *words), str(file / "run"), "choose another folder")
    refused(call("train", "/proc/nowhere/run", *words), "/proc/nowhere")
    assert file.read_text() == "mine"
    other = tmp_path / "thesis"
    other.mkdir()
    (other / "chapter.txt").write_text("years of work")
    refused(call("train", other, *words), str(other), "no run.json")
    assert [path.name for path in other.iterdir()] == ["chapter.txt"]


def test_a_run_keeps_its_settings(run: Path, texts: Path, tmp_path: Path) -> None:
    before = (run / "run.json").read_bytes()
    file = tmp_path / "settings.toml"
    file.write_text("[sae]\nwidth = 96\nk = 4\n")
    refused(call("train", run, "--k", 5), str(run), "(sae.k is 4 there, 5 here)", "leave the settings out")
    refused(call("train", run, "--config", file), "(sae.width is 48 there, 96 here)")
    refused(call("train", run, "--text", texts), f"'{texts}' here")
    refused(call("demo", "--no-serve", "--run", run, "--set", "training.seed=1"), "(training.seed is 0 there, 1 here)")
    assert (run / "run.json").read_bytes() == before
    # Without settings, or with some of those that it has, it goes on; here there is nothing left to do.
    assert call("train", run).code == call("train", run, "--k", 4, "--config", file, "--width", 48).code == 0
    assert (run / "run.json").read_bytes() == before


@pytest.fixture
def unmeasured(run: Path) -> Path:
    """The run as it was before it was evaluated."""
    shutil.rmtree(run / "evaluation")
    manifest = read_json(run / "run.json")
    manifest["finished"] = {name: facts for name, facts in manifest["finished"].items() if "evaluate/" not in name}
    write_json(run / "run.json", manifest)
    return run


def test_faults_of_a_task_are_named_before_anything_is_measured(unmeasured: Path, texts: Path, tmp_path: Path) -> None:
    run, before = unmeasured, (unmeasured / "run.json").read_bytes()
    refused(call("evaluate", run, "--task", tmp_path / "no.csv"), "no.csv", "does not exist")
    refused(call("evaluate", run, "--task", "ag_new"), "--task ag_new", "ag_news, europarl")
    empty = tmp_path / "copies"
    public = call("evaluate", run, "--task", "europarl", "--task-folder", empty)
    refused(public, str(empty / "Helsinki-NLP" / "europarl" / "en-fr"), "split train")
    refused(call("evaluate", run, "--task", texts, "--text-column", "body"), "texts.csv", "'body'", "text, label")
    refused(call("evaluate", run, "--task", texts, "--label-column", "kind"), "texts.csv", "'kind'", "text, label")
    # One that is right, and one behind it that is not.
    for content, words in (
        ("text,label\none,1\ntwo,2\n", ("few.csv", "at least")),
        ("text,label,text\none,1,two\n", ("few.csv", "has the column 'text' twice")),
    ):
        (tmp_path / "few.csv").write_text(content)
        refused(call("evaluate", run, "--task", texts, "--task", tmp_path / "few.csv"), *words)
    # The same file by two names, and a data set by one.
    twice = tmp_path / "copies" / ".." / "texts.csv"
    empty.mkdir()
    refused(call("evaluate", run, "--task", texts, "--task", twice), "texts.csv is given twice")
    refused(call("evaluate", run, "--task", "ag_news", "--task", "ag_news"), "--task ag_news is given twice")
    refused(call("evaluate", run, "--retrain", run), "is the run itself, which is no retrain of it")
    refused(call("evaluate", run, "--retrain", empty), str(empty))
    assert (run / "run.json").read_bytes() == before
    assert not (run / "evaluation").exists()
    assert not leftovers(run)


def test_faults_of_a_spurious_task_are_named_before_anything_is_measured(unmeasured: Path, texts: Path) -> None:
    words = ("--target", "label=0,1", "--attribute", "label=0,1", "--text-column", "text")
    refused(call("spurious", unmeasured, "--file", texts, *words), "texts.csv")
    refused(
        call("spurious", unmeasured, "--task", "biographies", "--task", "biographies"), "biographies is given twice"
    )
    refused(call("spurious", unmeasured, "--task", "biographies", "--task", "docstrings"), "needs the embedded text")
    assert not (unmeasured / "evaluation").exists()


def test_a_map_of_an_ensemble_and_itself_is_refused(run: Path) -> None:
    words = ("--ensemble", "bagged", "--other", "bagged")
    refused(call("map", run, *words), "Both sides are the ensemble bagged", "give another --other or --other-run")
    refused(call("map", run, *words, "--other-run", run / ".." / run.name), "Both sides are the ensemble bagged")
    assert not (run / "ensembles" / "bagged" / "joint_maps").exists()


def test_an_address_of_labels_is_refused_without_its_password(run: Path) -> None:
    nowhere = "postgresql://ada:se-cret@localhost:1/x?connect_timeout=2"
    pytest.importorskip("psycopg", reason="psycopg is not installed: pip install -e '.[test]'")
    for command in (("dashboard",), ("labels", "export")):
        said = call(*command, run, "--labels", nowhere)
        refused(said, "postgresql", "***@localhost", "look whether the server runs")
        assert "se-cret" not in said.err + said.out
    refused(call("labels", "export", run, "--labels", "no address"), "no database address", "sqlite:///")


def test_faults_of_a_labels_file_are_named(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    refused(call("labels", "import", run, file), "labels.csv", "does not exist")
    refused(call("labels", "import", run, tmp_path), str(tmp_path))
    file.write_text("ensemble,member,feature,label\nbagged,0,1,good\nbagged,0,48,too far\n")
    refused(call("labels", "import", run, file), "ine 3")
    assert call("labels", "export", run).out.count("\n") == 1  # all or none
    refused(call("labels", "export", run, "--out", tmp_path / "labels.csv" / "x.csv"), "labels.csv")


# The file that is cut off; what must be missing for a command to need it; the commands, the first of which is refused.
CUT_OFF = [
    ("ensembles/bagged/member_01/sae_weights.safetensors", "ensembles/bagged/atoms.parquet", "index train index"),
    ("ensembles/bagged/member_01/cfg.json", "evaluation/dictionary.json", "evaluate train evaluate"),
    ("ensembles/boosted/index/activations.safetensors", "ensembles/boosted/atoms.parquet", "index index"),
    ("ensembles/boosted/matches.parquet", "ensembles/boosted/atoms.parquet", "index index"),
    ("ensembles/single/map.parquet", "ensembles/single/atoms.parquet", "index index"),
    ("corpus/tokens.safetensors", "ensembles/single/atoms.parquet", "index index"),
    ("corpus/documents.parquet", "ensembles/single/atoms.parquet", "index index"),
    ("corpus/tokenizer/tokenizer.json", "ensembles/single/atoms.parquet", "index index"),
    ("activations/train/shard_00000.safetensors", "ensembles/single/index/activations.safetensors", "index index"),
    ("activations/evaluation/meta.json", "evaluation/reconstruction.json", "evaluate evaluate"),
    ("evaluation/reconstruction.json", None, "info evaluate"),
    ("evaluation/detection.parquet", None, "info evaluate"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("damaged", "missing", "commands"), CUT_OFF, ids=[row[0] for row in CUT_OFF])
def test_a_file_cut_off_is_named_and_written_again(run: Path, damaged: str, missing: str | None, commands: str) -> None:
    file = run / damaged
    whole = file.read_bytes()
    os.truncate(file, len(whole) // 2)
    if missing:
        (run / missing).unlink()
    first, *then = commands.split()
    refused(call(first, run), str(file), "delete it and run the command again")
    assert not leftovers(run)

    file.unlink()
    for command in then:
        outcome = call(command, run)
        assert outcome.code == 0, outcome.err
    assert not leftovers(run)
    assert call("info", run).code == 0
    if file.suffix == ".safetensors":
        assert file.read_bytes() == whole


def test_a_manifest_cut_off_is_named(run: Path) -> None:
    manifest = run / "run.json"
    for content in (manifest.read_text()[:100], "", "[]"):
        manifest.write_text(content)
        for command in ("info", "train", "index", "evaluate"):
            refused(call(command, run), str(manifest), "train again in a new folder")
        refused(call("demo", "--no-serve", "--run", run, "--set", "sae.k=3"), str(manifest))
        assert manifest.read_text() == content


@contextmanager
def small_disk(largest: int) -> Iterator[None]:
    """No file may grow beyond ``largest`` bytes: for the writer the same as a disk that fills up, without being root.

    The kernel refuses the write with EFBIG instead of ENOSPC; Python ignores the signal that comes with it.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.slow
def test_a_write_that_fails_anywhere_names_its_file_and_the_run_goes_on(
    tmp_path: Path, texts: Path, small_model: Path
) -> None:
    run = tmp_path / "run"
    texts.write_text("text\n" + "".join(f"{number} words of many more words\n" for number in range(400)))
    words = ["--text", texts, "--model", small_model, "--layer", 1, "--width", 1024, "--k", 4, "--methods", "bagged"]
    words += ["--members", 2, "--tokens", 4000, "--set", "data.train_tokens=2000", "--set", "training.batch_size=128"]
    # The files of a run are ever larger, so each limit is met by a later one, whatever library writes it.
    for largest, name in (
        (100, "run.json"),
        (3000, "corpus/tokens.safetensors"),
        (12_000, "corpus/tokenizer"),
        (30_000, "corpus/lens.safetensors"),
        (80_000, "activations/train/shard_00000.safetensors"),
        (160_000, "ensembles/bagged/member_00/sae_weights.safetensors"),
    ):
        with small_disk(largest):
            refused(call("train", run, *words), f"Error: {run / name} grew larger", "lift that limit")
        assert not leftovers(tmp_path)
        assert all(path.stat().st_size <= largest for path in run.rglob("*") if path.is_file())
    assert call("train", run, *words).code == 0
    assert Run.open(run).is_finished("train/bagged")


@pytest.mark.slow
def test_a_full_disk_is_said(run: Path, tmp_path: Path) -> None:
    """Writes go to /dev/full, where the kernel answers every one of them with ENOSPC."""
    out = tmp_path / "labels.csv"
    with written_to_dev_full(out):
        refused(call("labels", "export", run, "--out", out), f"The disk is full (writing {out})", "free some space")
    assert not out.exists()
    for name, command in (
        ("evaluation/cost.json", "evaluate"),
        ("evaluation/concepts.parquet", "evaluate"),
        ("ensembles/bagged/matches.parquet", "index"),
        ("ensembles/bagged/atoms.parquet", "index"),
    ):
        file = run / name
        file.unlink()
        with written_to_dev_full(file):
            refused(call(command, run), f"The disk is full (writing {file})", "it goes on")
        assert not leftovers(run)
        assert not file.exists()
        assert call(command, run).code == 0
        assert file.exists()


@contextmanager
def written_to_dev_full(path: Path) -> Iterator[None]:
    """The name under which `replacing` first writes ``path`` leads to /dev/full."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.symlink_to("/dev/full")
    yield
    assert not partial.is_symlink()


def test_an_option_that_is_repeatable_takes_what_a_shell_writes_for_a_pattern(tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.npy" for number in range(3)]
    # All three are looked for, whether an option is written once or before each of them.
    missing = refused(call("train", tmp_path / "run", "--activations", *files, "--k", 4), str(files[0]))
    repeated = [word for file in files for word in ("--activations", file)]
    assert refused(call("train", tmp_path / "run", *repeated, "--k", 4)) == missing
    assert refused(call("train", "--activations", files[0], tmp_path / "run")) == missing
    refused(call("train", tmp_path / "run", "--k", 4, files[0]), "extra argument")
    assert len(Run.open(tmp_path / "run").settings.model_dump()["origin"]["files"]) == 1
