"""Labelled sets: balanced, disjoint, split by module, confounded only in training; and files of texts and labels."""

import itertools
from collections import Counter

import pytest

from sae_core.activations.origins.text.documents import Document
from sae_core.analysis.concepts.tasks import Task, build_problems, docstring_tasks, labelled_task, usable_concepts
from sae_core.foundation.errors import UserError

LIBRARIES = ("ant", "bee", "cat")
SIZES = {"parameters": 30, "prose": 60, "example": 15}


def documents():
    made = []
    for library, (kind, size) in itertools.product(LIBRARIES, SIZES.items()):
        # One library has hardly any parameter lists, so it cannot be in the confounded pair.
        for number in range(5 if (library, kind) == ("cat", "parameters") else 3 * size):
            module = f"{library}.module{number % 20}"
            text = f"{library} {kind} {number}"
            made.append(Document(text, {"package": library, "module": module, "kind": kind, "name": "f"}))
    return made


def tasks(**options):
    sizes = {"train_texts": 200, "test_texts": 80, "pool_texts": 300} | options
    return {task.name: task for task in docstring_tasks(documents(), **sizes)}


def test_three_tasks_with_disjoint_sides_and_true_labels():
    found = tasks()
    assert list(found) == ["library", "kind", "confounded"]
    for task in found.values():
        assert not set(task.train_texts) & set(task.test_texts)
        assert len(set(task.train_texts)) == len(task.train_texts) == len(task.train_labels)
        assert len(set(task.test_texts)) == len(task.test_texts) == len(task.test_labels)
        assert len(task.description) > 30
    for name, place in (("library", 0), ("kind", 1), ("confounded", 0)):
        task = found[name]
        texts, labels = task.train_texts + task.test_texts, task.train_labels + task.test_labels
        assert all(text.split()[place] == label for text, label in zip(texts, labels, strict=True))


def test_training_and_test_passages_come_from_different_modules_in_all_tasks():
    module = {document.text: document.metadata["module"] for document in documents()}
    found = tasks().values()
    train = {module[text] for task in found for text in task.train_texts}
    test = {module[text] for task in found for text in task.test_texts}
    assert train
    assert test
    assert not train & test


def test_libraries_share_the_pool_evenly_and_the_kinds_use_the_same_texts():
    found = tasks()
    assert set(found["library"].train_texts) == set(found["kind"].train_texts)
    assert set(found["library"].test_texts) == set(found["kind"].test_texts)
    for labels, wanted in ((found["library"].train_labels, 300 * 0.8 * 0.7 / 3), (found["library"].test_labels, 24)):
        assert all(abs(count - wanted) <= 2 for count in Counter(labels).values())
    used = {text for task in found.values() for text in task.train_texts + task.test_texts}
    assert len(used) <= 300 + 6


def test_limits_on_texts_are_kept():
    found = tasks(train_texts=40, test_texts=20)
    assert max(Counter(found["library"].train_labels).values()) <= 22
    assert max(Counter(found["library"].test_labels).values()) <= 12


def test_confounded_goes_together_in_training_and_is_balanced_in_testing():
    task = tasks()["confounded"]
    cells = Counter((text.split()[0], text.split()[1]) for text in task.train_texts)
    assert len(cells) == 2
    (one, other), counts = zip(*cells, strict=True), set(cells.values())
    assert sorted(other) == ["parameters", "prose"]
    assert sorted(one) == ["ant", "bee"]
    assert len(counts) == 1
    tested = Counter((text.split()[0], text.split()[1]) for text in task.test_texts)
    assert set(tested) == set(itertools.product(("ant", "bee"), ("parameters", "prose")))
    assert len(set(tested.values())) == 1
    # A detector of the kind alone is right on half of the test texts.
    of_parameters = next(library for library, kind in cells if kind == "parameters")
    guess = [text.split()[1] == "parameters" for text in task.test_texts]
    right = [one == (label == of_parameters) for one, label in zip(guess, task.test_labels, strict=True)]
    assert sum(right) * 2 == len(right)
    assert usable_concepts(task) == ["bee"]
    problem = build_problems(
        [task],
        {text: row for row, text in enumerate(task.train_texts + task.test_texts)},
        train_texts=1000,
        test_texts=400,
        seed=0,
    )[0]
    assert len(problem.test) == len(task.test_texts)


def test_first_documents_are_preferred_and_repeated_texts_count_once():
    some = documents()
    repeated = [*some, *(Document(d.text, {**d.metadata, "module": "elsewhere"}) for d in some)]
    sizes = {"train_texts": 200, "test_texts": 80, "pool_texts": 300}
    assert docstring_tasks(repeated, **sizes) == docstring_tasks(some, **sizes)
    library = tasks()["library"]
    numbers = [int(text.split()[2]) for text in library.train_texts if text.startswith("ant prose")]
    assert numbers == sorted(numbers)
    assert numbers[-1] < 170


def test_too_few_documents_give_fewer_tasks():
    assert docstring_tasks([], train_texts=100, test_texts=40, pool_texts=300) == []
    one = [document for document in documents() if document.metadata["package"] == "ant"]
    found = docstring_tasks(one, train_texts=100, test_texts=40, pool_texts=300)
    assert [task.name for task in found] == ["kind"]


def test_a_file_of_labels_is_split_by_class_and_repeats_are_dropped():
    texts = [f"text {number}" for number in range(100)] + ["text 0", " ", ""]
    labels = ["x" if number % 4 else "y" for number in range(100)] + ["x", "x", "y"]
    task = labelled_task("mine.csv", texts, labels, seed=1)
    assert Counter(task.train_labels) == {"x": 60, "y": 20}
    assert Counter(task.test_labels) == {"x": 15, "y": 5}
    assert not set(task.train_texts) & set(task.test_texts)
    assert set(task.train_texts + task.test_texts) == {f"text {number}" for number in range(100)}
    truth = {**dict(zip(texts, labels, strict=True)), "text 0": "y"}  # the first label counts
    assert all(truth[text] == label for text, label in zip(task.train_texts, task.train_labels, strict=True))
    assert task == labelled_task("mine.csv", texts, labels, seed=1)
    assert task != labelled_task("mine.csv", texts, labels, seed=2)


@pytest.mark.parametrize(
    ("labels", "words"),
    [(["a"] * 300, "no two labels"), ([str(n) for n in range(300)], "300 different labels"), ([], "no two labels")],
)
def test_labels_that_make_no_task_are_refused_by_name(labels, words):
    with pytest.raises(UserError, match=words) as caught:
        labelled_task("mine.csv", [f"text {number}" for number in range(len(labels))], labels)
    assert "mine.csv" in str(caught.value)


def three_classes():
    sizes = {"a": 50, "b": 30, "c": 4}
    texts = {label: [f"{label}{number}" for number in range(2 * size)] for label, size in sizes.items()}
    sides = [[(text, label) for label, mine in texts.items() for text in mine[side::2]] for side in (0, 1)]
    return Task("t", "d", *(list(part) for side in sides for part in zip(*side, strict=True)))


def test_problems_are_balanced_one_against_the_rest():
    task = three_classes()
    texts = task.train_texts + task.test_texts
    rows = {text: row for row, text in enumerate(texts)}
    problems = build_problems([task], rows, train_texts=60, test_texts=1000, seed=0)
    assert [problem.concept for problem in problems] == ["a", "b"]
    for problem, (train, test) in zip(problems, ((30, 34), (30, 30)), strict=True):
        for chosen, positive, count, side in (
            (problem.train, problem.train_positive, train, task.train_texts),
            (problem.test, problem.test_positive, test, task.test_texts),
        ):
            assert len(set(chosen.tolist())) == len(chosen) == 2 * count
            assert positive.sum() == count
            assert all(
                (texts[row][0] == problem.concept) == is_one for row, is_one in zip(chosen, positive, strict=True)
            )
            assert {texts[row] for row in chosen} <= set(side)
    again = build_problems([task], rows, train_texts=60, test_texts=1000, seed=0)
    assert all((one.train == other.train).all() for one, other in zip(problems, again, strict=True))
    other = build_problems([task], rows, train_texts=60, test_texts=1000, seed=1)
    assert any((one.train != another.train).any() for one, another in zip(problems, other, strict=True))
