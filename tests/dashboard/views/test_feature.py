"""The page of one feature: steps, characters over several tokens, passages, suggested labels, keys and links."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from app_pages import html, open_page
from hand_made import corpus_of, index_of
from streamlit.testing.v1 import AppTest
from synthetic_run import write_synthetic_run

from dashboard.components.feature_keys import Act, read
from dashboard.views.feature import side as feature_side
from dashboard.views.feature.steps import stepped
from sae_core.activations.corpus import Corpus
from sae_core.analysis.index.passages import PassageLabels
from sae_core.analysis.similarity.nearest import KEPT
from sae_core.ensembles.ensemble import load_ensemble
from sae_core.foundation.files.whole_files import read_table
from sae_core.foundation.run import Run
from sae_core.labels import LabelStore
from sae_core.report.pieces import tokens

ATTACK = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return write_synthetic_run(tmp_path_factory.mktemp("runs") / "run", members=2, stop_before="evaluate")


def open_feature(monkeypatch: pytest.MonkeyPatch, run: Run, feature: int, **query: str) -> AppTest:
    return open_page(monkeypatch, run.path, "feature", ensemble="bagged", feature=str(feature), **query)


# Steps and keys


@pytest.mark.parametrize(
    ("feature", "steps", "there"),
    [
        (2, 1, 9),
        (2, -1, 5),
        (5, 2, 9),
        (5, 99, 9),
        (9, -99, 5),
        (7, 1, 9),
        (7, -1, 5),
        (7, -9, 2),
        (7, 0, 7),
        (99, 3, 99),
    ],
)
def test_steps_follow_the_order_to_its_ends(feature: int, steps: int, there: int) -> None:
    assert stepped(np.array([5, 2, 9]), feature, steps) == there


def test_there_is_no_step_where_no_feature_is_found() -> None:
    assert stepped(np.array([], np.int64), 7, 1) == 7


@pytest.mark.parametrize(
    ("sent", "act"),
    [
        ({"steps": 12, "open": None, "number": 1}, Act(steps=12)),
        ({"steps": 0, "open": 3}, Act(open=3)),
        ({"steps": 2, "open": 10}, Act(steps=2)),
        ({"steps": 10**9}, Act()),
        ({"steps": "1"}, Act()),
        ({"steps": True, "open": True}, Act()),
        ("<script>", Act()),
        (None, Act()),
    ],
)
def test_what_a_browser_sends_is_checked(sent: object, act: Act) -> None:
    assert read(sent, features=10) == act


# Tokens


def test_a_character_over_several_tokens_is_named_at_each() -> None:
    texts = ["a", "\ufffd", "\ufffd", "界x", "\ufffd"]
    assert [tokens.whole_character(texts, number) for number in range(5)] == ["", "界", "界", "", ""]
    span = tokens.token_span("\ufffd", 1.0, 1.0, position=0, source="", is_peak=False, character="界")
    assert f">{tokens.PART}</span>" in span
    assert "some bytes of “界”" in span


# Passages


def test_shares_of_labels_are_those_of_a_plain_count() -> None:
    generator = np.random.default_rng(0)
    corpus = corpus_of([generator.integers(0, 9, generator.integers(0, 7)).tolist() for _ in range(80)])
    documents = pd.DataFrame(
        {
            "package": generator.choice(["numpy", "pandas", "torch"], 80),
            "kind": [None if number % 5 == 0 else ("prose", "example")[number % 2] for number in range(80)],
            "name": [f"f{number}" for number in range(80)],
            "same": "x",
        }
    )
    corpus = Corpus(corpus.tokens, corpus.offsets, documents, corpus.texts)
    dense = generator.random((len(corpus), 2)) * (generator.random((len(corpus), 2)) < 0.1)
    dense[:, 1] = 0
    labels = PassageLabels(corpus)
    found = labels.shares(index_of(dense), 0)
    fires = sorted(set(corpus.document_of(np.flatnonzero(dense[:, 0])).tolist()))
    assert list(dict.fromkeys(found["column"])) == ["package", "kind"]  # names tell passages, and x says nothing
    for row in found.to_dict("records"):
        values = documents[row["column"]]
        here, everywhere = values.iloc[fires].dropna(), values.dropna()
        assert row["passages"] == (here == row["label"]).sum()
        assert row["share"] == pytest.approx((here == row["label"]).mean())
        assert row["corpus_share"] == pytest.approx((everywhere == row["label"]).mean())
        assert row["lift"] == pytest.approx(row["share"] / row["corpus_share"])
    assert found[found["column"] == "package"]["passages"].is_monotonic_decreasing
    assert labels.shares(index_of(dense), 1).empty


# HTML


def test_the_side_escapes_everything() -> None:
    shares = pd.DataFrame(
        {"column": [ATTACK], "label": [ATTACK], "passages": [3], "share": [0.5], "corpus_share": [0.1], "lift": [5.0]}
    )
    row = {"suggestion": ATTACK, "precision": 0.5, "recall": 0.1, "fires": 10, "holds": 4, "both": 2, "lift": 9.0}
    lens = {"promoted": [ATTACK], "promoted_scores": [1.0], "suppressed": [ATTACK], "suppressed_scores": [-1.0]}
    near = feature_side.Near(3, 1, ATTACK, [ATTACK], ATTACK, True, ATTACK)
    page = "".join(
        [
            feature_side.passages_html(shares),
            feature_side.suggestion_html(row),
            feature_side.lens_html(lens),
            feature_side.near_html(ATTACK, ATTACK, [near], {"run": '"><script>'}, staged=False),
        ]
    )
    assert not {"img", "script"} & set(re.findall(r"<([a-zA-Z]+)", page))
    assert page.count("&lt;img") >= 10
    assert 'href="?run=%22%3E%3Cscript%3E&amp;feature=3" data-go="3"' in page


def test_a_suggestion_says_how_good_it_is() -> None:
    row = {"suggestion": "“of”", "precision": 0.5, "recall": 0.1, "fires": 1000, "holds": 200, "both": 100, "lift": 9.0}
    page = feature_side.suggestion_html(row)
    assert "<b>“of”</b>" in page
    assert "100 of the 200 tokens there where the rule holds as it reads" in page
    assert "The SAEs were trained on both" in page
    assert "100 of the 1,000 tokens there on which it fires" in page
    assert "sae-ensemble index" in feature_side.suggestion_html(None)
    assert "no simple rule" in feature_side.suggestion_html({**row, "suggestion": ""})


# The page


def test_the_suggestion_is_taken_with_the_note_that_is_being_written(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    table = read_table(run.ensemble("bagged").suggestions)
    row = table[table["suggestion"] != ""].iloc[0]
    feature = int(row["feature"])
    app = open_feature(monkeypatch, run, feature)
    app.text_input(key=f"note-run-bagged-{feature}").set_value("half a thought")
    app.text_input(key="author").set_value("Ada")
    next(button for button in app.button if button.label == "Take as label").click().run()
    assert not app.exception
    label = LabelStore(run.labels, "run").get("bagged", feature)
    assert label is not None
    assert (label.label, label.note) == (row["suggestion"], "half a thought")
    assert app.text_input(key=f"label-run-bagged-{feature}").value == row["suggestion"]


def test_the_window_and_the_scale_change_what_is_shown(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    table = read_table(run.ensemble("bagged").atoms)
    app = open_feature(monkeypatch, run, int(table["feature"].iloc[table["count"].argmax()]))
    lengths, pictures = {}, set()
    for window in ("8", "16", "full"):
        app.segmented_control(key="window").set_value(window).run()
        lengths[window] = sum(map(len, re.findall(r'class="txt">(.*?)</div>', html(app), re.DOTALL)))
    assert lengths["8"] < lengths["16"] < lengths["full"]
    for scale in ("log", "linear"):
        app.segmented_control(key="bars").set_value(scale).run()
        pictures.add(re.findall(r'src="data:image/svg[^"]+"', html(app))[0])
    assert len(pictures) == 2
    assert not app.exception


def test_a_run_of_an_older_version_has_no_suggestions(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run = write_synthetic_run(tmp_path / "run", members=2, stop_before="evaluate")
    run.ensemble("bagged").suggestions.unlink()
    app = open_feature(monkeypatch, run, 3)
    assert not app.exception
    assert "none yet: sae-ensemble index" in html(app)
    assert "Take as label" not in [button.label for button in app.button]


def near_rows(app: AppTest, title: str) -> list[tuple[int, str]]:
    """(feature, what is said of it) of a list of features near to the one that is shown."""
    after = html(app).split(title)[1].split("<h2>")[0]
    rows = re.findall(r'data-go="(\d+)".*?<span class="muted" title="The cosine[^>]*>(.*?)</span>', after)
    return [(int(feature), said) for feature, said in rows]


@pytest.mark.parametrize(
    ("ensemble", "title"),
    [("single", "Nearest atoms of the dictionary"), ("boosted", "Nearest atoms in its own stage")],
)
def test_the_nearest_atoms_of_its_own_member_are_shown(
    monkeypatch: pytest.MonkeyPatch, run: Run, ensemble: str, title: str
) -> None:
    members = load_ensemble(run.ensemble(ensemble))
    feature = members.offsets[-1] - 3
    own_ND, latent = members[-1].W_dec.detach(), members[-1].width - 3
    cosine_N = torch.nn.functional.cosine_similarity(own_ND, own_ND[latent], dim=1)
    cosine_N[latent] = -2
    best = cosine_N.topk(KEPT)
    dead = read_table(run.ensemble(ensemble).atoms)["dead"]
    expected = [
        (members.offsets[-2] + place, f"cosine {cosine:z.2f}{' · dead' if dead[members.offsets[-2] + place] else ''}")
        for cosine, place in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]
    LabelStore(run.labels, "run").set(
        *(ensemble, len(members) - 1, best.indices[0].item(), expected[0][0]), "what is nearest", author="Ada"
    )
    app = open_page(monkeypatch, run.path, "feature", ensemble=ensemble, feature=str(feature))
    assert not app.exception
    assert near_rows(app, title) == expected
    assert "what is nearest" in html(app).split(title)[1]
    assert "Of as many random atoms the nearest has" in html(app)


@pytest.mark.parametrize("ensemble", ["single", "bagged"])
def test_a_run_of_an_older_version_says_what_finds_its_nearest_atoms(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ensemble: str
) -> None:
    run = write_synthetic_run(tmp_path / "run", members=2, stop_before="evaluate")
    run.ensemble(ensemble).nearest.unlink()
    app = open_page(monkeypatch, run.path, "feature", ensemble=ensemble, feature="3")
    assert not app.exception
    assert "They are not found yet" in html(app)
    assert f"sae-ensemble index {run.path}" in html(app)
    assert "Fires together with" in html(app)
