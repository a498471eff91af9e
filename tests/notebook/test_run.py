"""A run in Python: its ensembles, features, examples, matches and labels, and what a notebook shows of them."""

from __future__ import annotations

import html
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import data, trained
from synthetic_run import INJECTION, write_synthetic_run

import sae_core as sc
from sae_core.analysis.index.activation_index import ActivationIndex
from sae_core.foundation.files.whole_files import read_table
from sae_core.foundation.progress import Tick
from sae_core.labels.opening import labels_of
from sae_core.notebook import watching


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic_run(tmp_path_factory.mktemp("notebook") / "run").path


@pytest.fixture(scope="module")
def run(folder: Path) -> sc.Run:
    return sc.Run.open(str(folder))


def firing(run: sc.Run, ensemble: str = "bagged") -> sc.Feature:
    """The feature that fires most often."""
    table = run[ensemble].features
    return run[ensemble].feature(int(table["count"].idxmax()))


def test_a_run_has_its_ensembles_by_name(run: sc.Run) -> None:
    assert list(run)[:3] == ["single", "bagged", "boosted"]
    bagged = run["bagged"]
    assert (len(bagged), bagged.load().width) == (72, 72)
    assert repr(bagged) == f"<bagged of {run.path}: 3 members, 72 features>"
    with pytest.raises(sc.UserError, match=r"has no ensemble 'bag'; it has single, bagged"):
        run["bag"]


def test_a_feature_is_what_the_index_holds(run: sc.Run) -> None:
    feature, index = firing(run), ActivationIndex.open(run.ensemble("bagged").index)
    positions, values = index.feature(feature.number)
    assert feature.count == len(positions) > 0
    assert feature.density == len(positions) / index.tokens
    assert feature.peak == values.max()
    edges, counts = feature.histogram(bins=10)
    assert (len(edges), counts.sum()) == (11, len(values))
    assert run["bagged"].feature("1:6").number == 24 + 6
    assert [each.number for each in run["single"]] == list(range(len(run["single"])))
    for bad in (72, -1, "3:0", "0:24", "x", True, 1.0, None):
        with pytest.raises(sc.UserError, match=r"has no feature .*; it has features 0 to 71, in 3 members"):
            run["bagged"].feature(bad)  # type: ignore[arg-type]


def test_examples_are_the_strongest_and_mark_their_token(run: sc.Run) -> None:
    feature = firing(run)
    examples = feature.examples(4, window=3)
    assert [one.peak for one in examples] == sorted((one.peak for one in examples), reverse=True)
    assert examples[0].peak == feature.peak
    for one, text in zip(examples, examples.texts(), strict=True):
        before, token, after = re.fullmatch(r"(.*)«(.*)»(.*)", text, re.S).groups()  # type: ignore[union-attr]
        assert before + token + after == "".join(one.texts)
        assert token == one.texts[one.position - one.start]
    assert len(repr(examples).splitlines()) == len(examples) == len(examples[:9])


@pytest.mark.parametrize("count", ["a", -3, 0, 1.5, True, None])
def test_counts_that_are_none_are_refused(run: sc.Run, count: Any) -> None:
    feature = firing(run)
    for asked in (feature.examples, feature.neighbours, feature.together, feature.promoted, feature.histogram):
        with pytest.raises(sc.UserError, match="give a whole number of at least 1"):
            asked(count)


def test_matches_and_neighbours_have_the_cosines_of_the_atoms(run: sc.Run) -> None:
    feature, atoms = firing(run), run["bagged"].load(device="cpu").dictionary.detach()
    cosines = (atoms @ atoms[feature.number]).numpy()
    matches = feature.matches()
    assert sorted([*matches["member"], feature.place.member]) == [0, 1, 2]
    for row in matches.itertuples():
        own = cosines[24 * row.member : 24 * (row.member + 1)]
        assert row.feature == 24 * row.member + own.argmax()
        assert row.cosine == pytest.approx(own.max(), abs=1e-5)
    near = feature.neighbours(3)
    np.testing.assert_allclose(near["cosine"], cosines[near["feature"]], atol=1e-5)
    assert set(near["feature"] // 24) == {feature.place.member}
    assert run["single"].feature(0).matches().empty
    together = feature.together(3)
    assert (together["together"] <= feature.count).all()
    promoted = read_table(run.ensemble("bagged").promoted).iloc[feature.number]
    assert feature.promoted(2)["token"].tolist() == list(promoted["promoted"])[:2]
    assert feature.promoted(2, suppressed=True)["score"].tolist() == list(promoted["suppressed_scores"])[:2]


def test_a_label_is_written_where_the_dashboard_reads_it(run: sc.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "ada")
    run = sc.Run.open(run.path)
    feature = run["bagged"].feature(30)
    assert (feature.label, feature.note) == ("", "")
    feature.note = "seen in headings"
    feature.label = "  dates "
    stored = labels_of(run).get("bagged", 30)
    assert stored is not None
    assert (stored.label, stored.note, stored.author) == ("dates", "seen in headings", "ada")
    assert (stored.member, stored.latent) == (1, 6)
    assert repr(sc.Run.open(run.path)["bagged"].feature(30)) == "<Feature 30 of bagged (1:6): 'dates'>"
    with pytest.raises(sc.UserError, match="500 characters"):
        feature.label = "x" * 500
    with pytest.raises(sc.UserError, match="A label is a text, not 3"):
        feature.label = 3  # type: ignore[assignment]
    feature.label = ""
    assert labels_of(run).get("bagged", 30).note == "seen in headings"  # type: ignore[union-attr]
    changes = labels_of(run).history("bagged", 30)
    assert [change.new["label"] for change in changes if change.new] == ["", "dates", ""]


def test_a_notebook_shows_features_and_ensembles_with_every_text_escaped(run: sc.Run) -> None:
    attack = '"><script>alert(1)</script>'
    shown = []
    for ensemble in ("bagged", "boosted", "single"):
        for feature in list(run[ensemble])[:24]:
            shown += [feature._repr_html_(), feature.examples(20)._repr_html_()]
        shown.append(run[ensemble]._repr_html_())
    feature = firing(run)
    feature.label = attack
    shown.append(feature._repr_html_())
    feature.label = ""
    page = "".join(shown)
    allowed = "style div span b i p h1 h2 small code img table thead tbody tr th td"
    assert set(re.findall(r"<(\w+)", page)) <= set(allowed.split())
    assert re.findall(r"<img src=\"(?!data:image/svg\+xml;base64,)", page) == []
    assert html.escape(attack) in page
    assert html.escape(INJECTION[:8]) in page
    dead = next((each for each in run["bagged"] if not each.count), None)
    assert dead is None or "It is dead" in dead._repr_html_()


def test_training_shows_its_progress_in_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []

    class Handle:
        def update(self, drawing: Any) -> None:
            shown.append(drawing._repr_html_())

    def display(drawing: Any, *, display_id: bool) -> Handle:
        assert display_id
        return Handle()

    ipython = SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=1))
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=display))
    monkeypatch.setattr(watching, "SECONDS", 0.0)
    with watching.watched(True) as progress:
        progress(Tick("train <bagged>", 50, 200, figures={"L0": 16.0}, note="Mind <this>."))
        progress(Tick("train <bagged>", 200, 200))
    assert "train &lt;bagged&gt;: 50 of 200 tokens · L0 16.00" in shown[0]
    assert "width:25%" in shown[0]
    assert "Mind &lt;this&gt;." in shown[-1]
    assert "100%" in shown[-1]


def test_an_ensemble_of_a_trained_run_is_that_of_its_folder(tmp_path: Path) -> None:
    trained(tmp_path / "run", methods=["bagged"], members=2)
    ensemble = sc.Run.open(tmp_path / "run")["bagged"].load(device="cpu")
    acts = data()[:50]
    assert torch.equal(ensemble.encode(acts.numpy()), sc.load(tmp_path / "run/ensembles/bagged").encode(acts))
    assert ensemble.curves is not None
    with pytest.raises(sc.UserError, match=r"is not there yet; run `sae-ensemble index"):
        _ = sc.Run.open(tmp_path / "run")["bagged"].features
