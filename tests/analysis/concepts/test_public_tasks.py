"""Public data sets by name, read from small copies in their own schema: classes, balance, limits, seeds, refusals."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from command_line import call

from sae_core.activations.origins.text import hub
from sae_core.analysis.concepts import public_tasks as module
from sae_core.analysis.concepts.public_tasks import POOL, SETS, public_tasks
from sae_core.analysis.concepts.tasks import Task, build_problems, usable_concepts
from sae_core.foundation.errors import UserError
from sae_core.foundation.files.whole_files import read_json, read_table
from sae_core.foundation.progress import Tick
from sae_core.foundation.run import Run
from sae_core.foundation.settings.run_settings import PUBLIC_SETS, PUBLIC_TEXTS

TRAIN, TEST = 40, 20
CODE = "int main(void) { return 0; } // "


def biographies(count: int, split: str) -> list[dict[str, Any]]:
    """All 28 professions, a woman for every three men."""
    return [
        {
            "hard_text": f"{split} {number}: person with job {number % 28} and gender {int(number // 28 % 4 == 0)}.",
            "profession": number % 28,
            "gender": int(number // 28 % 4 == 0),
        }
        for number in range(count)
    ]


def reviews(count: int, split: str) -> list[dict[str, Any]]:
    """34 categories, one and five stars; sorted by category, as data sets may be."""
    rows = [
        {"text": f"{split} {number}", "category": number * 34 // count, "rating": 1.0 if number % 5 == 0 else 5.0}
        for number in range(count)
    ]
    return [{**row, "text": f"{row['text']}, category {row['category']}, {row['rating']:.0f} stars"} for row in rows]


def files_of_code(count: int) -> list[dict[str, Any]]:
    """As the Parquet files lie on the hub: content and path, no language; some are short, some in other languages."""
    names = ["a.c", "b.py", "c.html", "d.java", "e.php", "f.h", "g.rs", "Makefile"]
    return [
        {
            "repo_name": "owner/name",
            "path": f"src/{names[number % 8]}",
            "content": "H" * 150
            + f"{names[number % 8]} {number} "
            + CODE * (2 if number % 8 == 0 and number % 16 else 20),
            "size": "1",
        }
        for number in range(count)
    ]


def write(rows: Iterable[dict[str, Any]], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    else:
        pd.DataFrame(list(rows)).to_parquet(path)


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small copy of each data set, laid out as on the hub."""
    folder = tmp_path_factory.mktemp("copies")
    for split, count in (("train", 28 * 40), ("test", 28 * 24)):
        write(biographies(count, split), folder / "LabHC/bias_in_bios/data" / f"{split}-00000-of-00001.parquet")
        write(reviews(34 * 60, split), folder / "canrager/amazon_reviews_mcauley_1and5" / f"{split}.jsonl")
        news = ({"text": f"{split} news {number} of topic {number % 4}", "label": number % 4} for number in range(400))
        write(news, folder / "fancyzhx/ag_news/data" / f"{split}-00000-of-00001.parquet")
    code = files_of_code(800)
    for part in range(2):
        write(code[part::2], folder / "codeparrot/github-code/data" / f"train-0000{part}-of-00002.parquet")
    for pair in ("en-fr", "fr-it", "de-en", "es-fr", "nl-pt"):
        languages = pair.split("-")
        speeches = (
            {"translation": {language: f"{language} speech {number}" for language in languages}} for number in range(90)
        )
        write(speeches, folder / "Helsinki-NLP/europarl" / pair / "train-00000-of-00001.parquet")
    return folder


def tasks(name: str, copies: Path, **options: Any) -> dict[str, Task]:
    found = public_tasks(name, **{"train_texts": TRAIN, "test_texts": TEST, "folder": copies, **options})
    return {task.name: task for task in found}


def labels_in(task: Task) -> list[tuple[str, str]]:
    return list(zip(task.train_texts + task.test_texts, task.train_labels + task.test_labels, strict=True))


def test_there_are_35_concepts_in_eight_tasks(copies: Path) -> None:
    assert tuple(SETS) == PUBLIC_SETS
    assert (PUBLIC_TEXTS, round(module.TEST_SHARE * PUBLIC_TEXTS)) == (4000, 1000)
    found = {name: task for each in SETS for name, task in tasks(each, copies).items()}
    # As in SAEBench; of two classes one is counted, since detecting the other is the same problem.
    sizes = {
        **{"bias_in_bios 1": 5, "bias_in_bios 2": 5, "bias_in_bios 3": 5, "amazon_reviews category": 5},
        **{"amazon_reviews sentiment": 1, "github_code": 5, "ag_news": 4, "europarl": 5},
    }
    assert {name: len(usable_concepts(task)) for name, task in found.items()} == sizes
    assert sum(sizes.values()) == 35
    for task in found.values():
        train, test = Counter(task.train_labels), Counter(task.test_labels)
        # Half of a problem's texts are positive, and the other classes give the rest.
        assert set(train.values()) == {TRAIN // 2}, task.name
        assert set(test.values()) == {TEST // 2}, task.name
        assert not set(task.train_texts) & set(task.test_texts)
        assert len(set(task.train_texts)) == len(task.train_texts)
    texts = [text for task in found.values() for text in task.train_texts + task.test_texts]
    rows = {text: row for row, text in enumerate(dict.fromkeys(texts))}
    problems = build_problems(list(found.values()), rows, train_texts=TRAIN, test_texts=TEST, seed=0)
    assert len(problems) == 35
    assert {(len(problem.train), len(problem.test)) for problem in problems} == {(TRAIN, TEST)}


def test_professions_are_named_and_balanced_by_gender_within_the_data_sets_own_splits(copies: Path) -> None:
    numbers = {"bias_in_bios 1": (0, 1, 2, 6, 9), "bias_in_bios 2": (11, 13, 14, 18, 19)}
    names = {0: "accountant", 9: "filmmaker", 13: "nurse", 21: "professor", 26: "teacher"}
    for name, task in tasks("bias_in_bios", copies).items():
        for text, label in labels_in(task):
            number = int(text.split("job ")[1].split()[0])
            assert number in numbers.get(name, (20, 21, 22, 25, 26))
            assert names.get(number, label) == label
        assert all(text.startswith("train") for text in task.train_texts)
        assert all(text.startswith("test") for text in task.test_texts)
        for side, labels, wanted in (
            (task.train_texts, task.train_labels, TRAIN // 4),
            (task.test_texts, task.test_labels, TEST // 4),
        ):
            cells = Counter((label, text.endswith("1.")) for text, label in zip(side, labels, strict=True))
            assert set(cells.values()) == {wanted}
            assert len(cells) == 10


def test_reviews_are_told_by_category_balanced_by_stars_and_by_stars(copies: Path) -> None:
    category, sentiment = tasks("amazon_reviews", copies).values()
    titles = {1: "toys", 2: "cell phones", 3: "industrial", 5: "musical instruments", 6: "electronics"}
    for text, label in labels_in(category):
        assert titles[int(text.split("category ")[1].split(",")[0])] == label
    stars = Counter(
        (label, text.split()[-2]) for text, label in zip(category.train_texts, category.train_labels, strict=True)
    )
    assert set(stars.values()) == {TRAIN // 4}
    assert {(text.split()[-2], label) for text, label in labels_in(sentiment)} == {("1", "1 star"), ("5", "5 stars")}


def test_code_is_told_by_its_file_name_and_loses_its_first_characters(copies: Path) -> None:
    task = tasks("github_code", copies)["github_code"]
    languages = {"a.c": "C", "f.h": "C", "b.py": "Python", "c.html": "HTML", "d.java": "Java", "e.php": "PHP"}
    for text, label in labels_in(task):
        assert languages[text.split()[0]] == label
        assert len(text) > 384
    # Every second C file is too short; what is left are those and the headers.
    assert {text.split()[0] for text, label in labels_in(task) if label == "C"} == {"a.c", "f.h"}


def test_code_with_its_language_in_a_column_is_read_too(tmp_path: Path) -> None:
    rows = (
        {"code": "H" * 150 + f"{number} {language} " + CODE * 20, "path": "x", "language": language}
        for number in range(40)
        for language in ("C", "Python", "HTML", "Java", "PHP", "Rust")
    )
    write(rows, tmp_path / "codeparrot/github-code/train.parquet")
    task = tasks("github_code", tmp_path, train_texts=20, test_texts=10)["github_code"]
    assert all(text.split()[1] == label for text, label in labels_in(task))


def test_each_language_comes_from_its_own_pair(copies: Path) -> None:
    task = tasks("europarl", copies)["europarl"]
    assert task.classes == ["de", "en", "es", "fr", "nl"]
    assert all(text.split()[0] == label for text, label in labels_in(task))


def test_the_seed_decides_what_is_drawn(copies: Path) -> None:
    for name in SETS:
        assert tasks(name, copies, seed=1) == tasks(name, copies, seed=1) != tasks(name, copies, seed=2)


def test_reading_stops_when_there_is_enough_and_tells_how_far_it_is(copies: Path, monkeypatch: Any) -> None:
    read = Counter[str]()
    real = module.tables.read_rows

    def counted(path: Path, columns: Any) -> Any:
        for row in real(path, columns):
            read[path.name.split("-")[0]] += 1
            yield row

    monkeypatch.setattr(module.tables, "read_rows", counted)
    ticks: list[Tick] = []
    tasks("ag_news", copies, progress=ticks.append)
    # Of four topics in turn, three times what is wanted of each.
    assert read == {"train": 4 * POOL * TRAIN // 2, "test": 4 * POOL * TEST // 2}
    assert [(tick.done, tick.total) for tick in ticks] == [(count, count) for count in (read["train"], read["test"])]
    monkeypatch.setattr(module, "MAX_ROWS", 100)
    assert len(tasks("ag_news", copies)["ag_news"].train_texts) == 4 * TRAIN // 2
    assert read["train"] == 4 * POOL * TRAIN // 2 + 100


def test_repeated_texts_count_once_and_never_on_both_sides(tmp_path: Path) -> None:
    for split in ("train", "test"):
        rows = [{"text": f"item {number % 80} of {number % 4}", "label": number % 4} for number in range(400)]
        write([*rows, {"text": " ", "label": 0}], tmp_path / "fancyzhx/ag_news" / f"{split}.parquet")
    task = tasks("ag_news", tmp_path, train_texts=20, test_texts=20)["ag_news"]
    assert len(set(task.train_texts)) == len(task.train_texts) == 40
    assert not set(task.train_texts) & set(task.test_texts)
    assert Counter(task.test_labels) == dict.fromkeys(task.classes, 10)


@pytest.mark.slow
def test_the_command_adds_a_data_set_to_what_is_measured(trained_run: Run, copies: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(trained_run.path, tmp_path / "run"))
    before = read_table(trained_run.evaluation_table("concepts"))
    words = ["--task", "amazon_reviews", "--task-texts", 40, "--task-folder", copies]
    assert call("evaluate", path, *words, "--json").code == 0
    run = Run.open(path)
    table, facts = read_table(run.evaluation_table("concepts")), read_json(run.evaluation("concepts"))
    added = ["amazon_reviews category", "amazon_reviews sentiment"]
    assert [task["task"] for task in facts["tasks"]] == [*dict.fromkeys(before["task"]), *added]
    assert [task["asked"]["test_texts"] for task in facts["tasks"]] == [40, 10, 10]
    pd.testing.assert_frame_equal(table[~table["task"].isin(added)], before)
    mine = table[table["task"] == added[0]]
    assert set(mine["method"]) == set(before["method"])
    assert sorted(set(mine["m"])) == [0, *run.settings.evaluation.concept_features]
    # A word in every text names the category, so that something must tell them apart.
    assert mine["accuracy"].max() > 0.8
    assert call("evaluate", path, *words, "--json").code == 0
    pd.testing.assert_frame_equal(read_table(run.evaluation_table("concepts")), table)


def test_what_is_missing_is_named_in_one_sentence(tmp_path: Path) -> None:
    place = tmp_path / "fancyzhx/ag_news"
    write([{"text": "a", "label": 0}], place / "train.parquet")
    with pytest.raises(UserError, match=r"ag_news holds no Parquet, JSONL or CSV file of the split test"):
        tasks("ag_news", tmp_path)
    write([{"text": "b", "label": 1}], place / "test.parquet")
    with pytest.raises(UserError, match="fancyzhx/ag_news has too few texts for the task ag_news"):
        tasks("ag_news", tmp_path)
    write([{"text": "b", "topic": 1}], place / "test.parquet")
    with pytest.raises(UserError, match="no column 'label'"):
        tasks("ag_news", tmp_path)
    write([{"text": "b", "label": "x"}], place / "test.parquet")
    with pytest.raises(UserError, match="Row 1 of the split test of the data set fancyzhx/ag_news does not hold"):
        tasks("ag_news", tmp_path)


def test_without_a_hub_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "is_reachable", lambda: False)
    with pytest.raises(UserError, match=r"LabHC/bias_in_bios.*cannot be asked.*--task-folder"):
        public_tasks("bias_in_bios")


@pytest.mark.interop
@pytest.mark.parametrize("name", list(SETS))
def test_the_package_datasets_streams_the_same_rows(name: str, copies: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's place is taken by the folder; what is asked of the package stays as it is."""
    datasets = pytest.importorskip("datasets", reason="datasets is not installed: pip install 'sae-ensemble[hub]'")
    asked = []
    real = datasets.load_dataset

    def local(path: str, name: str | None = None, *, data_files: str | None = None, **options: Any) -> Any:
        asked.append((path, name, data_files))
        if data_files is not None:
            return real(path, data_files=data_files.replace("hf://datasets", str(copies)), **options)
        place = copies / path / (name or "")
        files = sorted(str(file) for file in place.rglob(f"{options['split']}*"))
        kind = "json" if files[0].endswith("jsonl") else "parquet"
        return real(kind, data_files={options["split"]: files}, **options)

    monkeypatch.setattr(datasets, "load_dataset", local)
    monkeypatch.setattr(hub, "is_reachable", lambda: True)
    expected = tasks(name, copies)
    assert tasks(name, copies, folder=None) == expected
    assert {path for path, _, _ in asked} == ({"parquet"} if SETS[name].files else {SETS[name].source})
