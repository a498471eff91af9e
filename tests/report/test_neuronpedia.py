"""Features as SAEDashboard writes them: its own classes read them, and the numbers are those of the index."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from command_line import call

from sae_core.activations.corpus import Corpus
from sae_core.analysis.index.activation_index import ActivationIndex
from sae_core.foundation.files.whole_files import read_table
from sae_core.foundation.run import Run


def export(run: Run, chosen: str, *more: object) -> tuple[int, str, str]:
    outcome = call("features", run.path, "--ensemble", "bagged", "--features", chosen, *more)
    return outcome.code, outcome.out, outcome.err


def living(run: Run) -> int:
    """The feature that fires most often."""
    return int(read_table(run.ensemble("bagged").atoms)["count"].idxmax())


def test_the_numbers_are_those_of_the_index(trained_run: Run, tmp_path: Path) -> None:
    feature, width = living(trained_run), trained_run.settings.sae.width
    chosen = f"{feature // width}:{feature % width},0"
    assert export(trained_run, chosen, "--out", tmp_path / "f.json", "--model-id", "small")[0] == 0
    batch = json.loads((tmp_path / "f.json").read_text())
    assert (batch["model_id"], batch["layer"]) == ("small", trained_run.settings.model.layer)
    assert [each["feature_index"] for each in batch["features"]] == [feature, 0]
    found = batch["features"][0]
    values = ActivationIndex.open(trained_run.ensemble("bagged").index).feature(feature)[1]
    assert found["frac_nonzero"] == len(values) / len(Corpus.open(trained_run).tokens)
    assert sum(found["freq_hist_data_bar_heights"]) == len(values)
    assert len(found["pos_str"]) == len(found["pos_values"]) > 0
    assert found["pos_values"] == sorted(found["pos_values"], reverse=True)
    top = [one for one in found["activations"] if one["bin_min"] == -1]
    assert top[0]["values"][top[0]["qualifying_token_index"]] == pytest.approx(values.max(), abs=1e-3)
    for one in found["activations"]:
        assert len(one["tokens"]) == len(one["values"])
        peak = one["values"][one["qualifying_token_index"]]
        assert one["bin_min"] == -1 or one["bin_min"] - 1e-3 <= peak <= one["bin_max"] + 1e-3
        assert np.isclose(values, peak, atol=1e-3).any()


@pytest.mark.parametrize("chosen", ["", "x", "-1", "1,1", "999999999", "99:0", "0:99999", "1,", "²"])
def test_features_that_are_not_there_are_refused(trained_run: Run, chosen: str, tmp_path: Path) -> None:
    code, _, said = export(trained_run, chosen, "--out", tmp_path / "f.json")
    assert (code, said.count("\n")) == (2, 1)
    assert not (tmp_path / "f.json").exists()


@pytest.mark.interop
def test_saedashboard_reads_what_is_written(trained_run: Run) -> None:
    dashboard = pytest.importorskip("sae_dashboard.neuronpedia.neuronpedia_dashboard", reason="no sae-dashboard")
    written = json.loads(export(trained_run, f"{living(trained_run)}")[1])
    read = dashboard.NeuronpediaDashboardBatch(**written)
    assert read.to_dict() == written
