"""Names of clusters, shares of concepts and joint maps, beside plain references."""

from __future__ import annotations

import json
from math import log
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command_line import call
from hand_made import corpus_of, index_of
from synthetic_run import write_synthetic_run

from sae_core.analysis.atoms import atom_map
from sae_core.analysis.atoms.cluster_names import name_clusters
from sae_core.analysis.atoms.joint_map import Side, joint_map_path, make_joint_map, read_joint_map, require_comparable
from sae_core.analysis.concepts import share as shares
from sae_core.analysis.concepts.share import concept_columns, concept_share
from sae_core.ensembles.ensemble import load_ensemble
from sae_core.foundation.errors import UserError
from sae_core.foundation.files.whole_files import read_json, write_json
from sae_core.foundation.run import Run


def test_clusters_are_named_by_the_words_that_others_have_not() -> None:
    cluster = np.array([0, 0, 0, 1, 1, 1, -1, -1])
    words = [["the", "array"], ["the", "array"], ["the"], ["the", "tensor"], ["tensor"], ["the"], ["array"], ["the"]]
    # f("the") = 6, f("array") = 3, f("tensor") = 2, and the mean of 5, 4 and 2 words is 11/3.
    weight = {"the": 3 / 5 * log(1 + 11 / 18), "array": 2 / 5 * log(1 + 11 / 9)}
    assert weight["array"] > weight["the"]
    assert name_clusters(cluster, words) == ["array, the", "tensor, the"]


def test_a_name_leaves_out_weak_words_and_may_be_empty() -> None:
    cluster = np.array([0] * 12 + [1] * 12 + [2])
    words = [["matrix"]] * 11 + [["the"]] + [["the"]] * 12 + [[]]
    assert name_clusters(cluster, words) == ["matrix", "the", ""]
    assert name_clusters(np.array([-1, -1]), [["a"], ["b"]]) == []
    assert name_clusters(np.array([], np.int64), []) == []


def test_names_do_not_depend_on_the_order_of_features() -> None:
    generator = np.random.default_rng(0)
    cluster = generator.integers(-1, 4, 200)
    words = [[str(word) for word in generator.choice(list("abcdefg"), 2)] for _ in range(200)]
    order = generator.permutation(200)
    assert name_clusters(cluster[order], [words[i] for i in order]) == name_clusters(cluster, words)


@pytest.mark.parametrize("entries", [1, 5, 2**22])
def test_the_share_of_a_concept_is_that_of_a_plain_count(monkeypatch: pytest.MonkeyPatch, entries: int) -> None:
    monkeypatch.setattr(shares, "ENTRIES_AT_A_TIME", entries)
    generator = np.random.default_rng(0)
    lengths = [3, 0, 7, 5]
    corpus = corpus_of([[1] * length for length in lengths])
    corpus.documents["kind"] = ["code", "code", "prose", "code"]
    dense = np.where(generator.random((15, 9)) < 0.4, generator.random((15, 9)), 0.0)
    dense[:, 4] = 0
    within = np.repeat([True, True, False, True], lengths)
    share, usual = concept_share(index_of(dense), corpus, "kind", "code")
    expected = [(dense[within, f] > 0).sum() / (dense[:, f] > 0).sum() if f != 4 else np.nan for f in range(9)]
    np.testing.assert_allclose(share, expected)
    assert usual == pytest.approx(8 / 15)


def test_only_columns_that_tell_a_few_kinds_apart_are_concepts() -> None:
    corpus = corpus_of([[1]] * 50)
    corpus.documents["kind"] = ["b", "a"] * 25
    corpus.documents["gap"] = ["x", None] * 24 + ["y", None]
    corpus.documents["row"] = range(50)
    corpus.documents["same"] = "one"
    assert concept_columns(corpus) == {"kind": ["a", "b"], "gap": ["x", "y"]}  # names of documents are too many


# Joint maps


@pytest.fixture
def flat(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first two coordinates as the map: UMAP takes seconds that a test has not."""
    monkeypatch.setattr(atom_map, "map_atoms", lambda atoms, **_: atoms[:, :2].numpy())


def test_a_joint_map_holds_both_and_their_closest_atoms(tmp_path: Path, flat: None) -> None:
    run = write_synthetic_run(tmp_path / "run", members=2)
    sides = Side(run, "bagged"), Side(run, "boosted")
    assert read_joint_map(*sides) is None
    table = make_joint_map(*sides)
    atoms = [load_ensemble(run.ensemble(side.ensemble)).dictionary.detach().double().numpy() for side in sides]
    cosine = np.divide(*[atoms[0] @ atoms[1].T, np.outer(*[np.linalg.norm(part, axis=1) for part in atoms])])
    assert table["side"].tolist() == [0] * 48 + [1] * 48
    assert table["feature"].tolist() == [*range(48), *range(48)]
    np.testing.assert_allclose(table["cosine"], [*cosine.max(axis=1), *cosine.max(axis=0)], atol=1e-6)
    assert table["closest"].tolist() == [*cosine.argmax(axis=1), *cosine.argmax(axis=0)]
    np.testing.assert_allclose(table[["x", "y"]], np.concatenate(atoms)[:, :2], atol=1e-6)
    kept = read_joint_map(*sides)
    assert kept is not None
    pd.testing.assert_frame_equal(kept, table)
    assert [side.features for side in sides] == [48, 48]


def test_a_joint_map_is_made_once_and_anew_for_another_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flat: None
) -> None:
    run, other = (write_synthetic_run(tmp_path / f"run{seed}", seed=seed, members=2) for seed in (0, 1))
    sides = Side(run, "bagged"), Side(other, "bagged")
    first = make_joint_map(*sides)
    monkeypatch.setattr(atom_map, "map_atoms", lambda *_, **__: pytest.fail("it is made again"))
    pd.testing.assert_frame_equal(make_joint_map(*sides), first)
    other.finish("train/bagged", {"seconds": 2.5, "tokens": 20_000})
    assert read_joint_map(*sides) is None


def test_what_lies_in_other_spaces_is_refused(tmp_path: Path) -> None:
    run, other = (write_synthetic_run(tmp_path / name, members=2, stop_before="index") for name in ("run", "other"))
    with pytest.raises(UserError, match="Both sides are bagged of run"):
        require_comparable(Side(run, "bagged"), Side(run, "bagged"))
    settings = read_json(other.manifest_path)
    settings["settings"]["model"]["layer"] += 1
    write_json(other.manifest_path, settings)
    with pytest.raises(UserError, match=r"model\.layer is 4 in run and 5 in other"):
        make_joint_map(Side(run, "bagged"), Side(Run.open(other.path), "bagged"))
    narrow = write_synthetic_run(tmp_path / "narrow", members=2, d_in=16, stop_before="index")
    with pytest.raises(UserError, match="32 dimensions and bagged of narrow of 16"):
        make_joint_map(Side(run, "bagged"), Side(narrow, "bagged"))
    assert not joint_map_path(Side(run, "bagged"), Side(narrow, "bagged")).exists()


def test_the_command_makes_a_joint_map_and_says_what_came_out(tmp_path: Path, flat: None) -> None:
    run = write_synthetic_run(tmp_path / "run", members=2)
    words = ("map", run.path, "--ensemble", "bagged", "--other", "boosted")
    found = call(*words, "--json")
    assert found.code == 0, found.err
    facts = json.loads(found.out)
    table = read_joint_map(Side(run, "bagged"), Side(run, "boosted"))
    assert table is not None
    assert facts["atoms"] == len(table)
    assert facts["alone"] == [int((part["cosine"] < 0.7).sum()) for _, part in table.groupby("side")]
    assert Path(facts["path"]).exists()
    assert "Mapped 96 atoms" in call(*words).err
    refusal = call("map", run.path, "--ensemble", "bagged", "--other", "none")
    assert refusal.code == 2
    assert "has no ensemble called none" in refusal.err
