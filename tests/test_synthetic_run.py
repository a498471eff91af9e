"""The synthetic run of the dashboard's tests has the same files and fields as a trained run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from synthetic_run import write_synthetic_run

from sae_core.analysis.stages import EVALUATIONS
from sae_core.foundation.files.whole_files import read_json
from sae_core.foundation.run import Run


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return write_synthetic_run(tmp_path_factory.mktemp("synthetic") / "run")


def tables(folder: Path) -> dict[str, set[str]]:
    """The columns of every table below a folder."""
    return {str(path.relative_to(folder)): set(pq.read_schema(path).names) for path in folder.rglob("*.parquet")}


def fields(content: Any) -> Any:
    """The names of the fields at every depth; of a list those of its first entry."""
    if isinstance(content, dict):
        return {name: fields(value) for name, value in content.items()}
    return [fields(each) for each in content[:1] if isinstance(each, dict)] if isinstance(content, list) else None


def test_evaluations_have_the_fields_of_a_real_run(synthetic: Run, trained_run: Run) -> None:
    common = {folder.name for folder in synthetic.ensembles()} & {folder.name for folder in trained_run.ensembles()}
    assert {"single", "bagged", "boosted"} <= common
    for stage in EVALUATIONS:
        if stage == "concepts":  # by task and concept, whose names are others
            continue
        made, real = (read_json(run.evaluation(stage)) for run in (synthetic, trained_run))
        assert made.keys() == real.keys(), stage
        for name in common & real["ensembles"].keys():
            ours, theirs = (fields(each["ensembles"][name]) for each in (made, real))
            for found in (ours, theirs):  # differences to ensembles that only one of the runs has
                for key in [key for key in found if key.endswith("_above") and isinstance(found[key], dict)]:
                    found[key] = {other: found[key][other] for other in found[key] if other in common}
            assert ours == theirs, (stage, name)
    made, real = (read_json(run.evaluation("concepts")) for run in (synthetic, trained_run))
    # A run whose text has no tasks of its own does not say for all tasks how many tokens were asked for.
    assert made["settings"].keys() == real["settings"].keys() | {"tokens_per_text_asked"}
    assert made["tasks"][0].keys() == real["tasks"][0].keys() - {"file"}


def test_tables_have_the_columns_of_a_real_run(synthetic: Run, trained_run: Run) -> None:
    ours, theirs = tables(synthetic.path / "evaluation"), tables(trained_run.path / "evaluation")
    assert ours == theirs
    for folder in synthetic.ensembles():
        ours, theirs = tables(folder.path), tables(trained_run.ensemble(folder.name).path)
        assert {name: theirs.get(name) for name in ours} == ours or not theirs, folder.name


def test_training_records_the_facts_of_a_real_run(synthetic: Run, trained_run: Run) -> None:
    for name in ("single", "bagged", "boosted"):
        assert synthetic.facts(f"train/{name}").keys() == trained_run.facts(f"train/{name}").keys()


def test_two_runs_with_the_same_options_differ_in_identity_alone(tmp_path: Path) -> None:
    one, two = (write_synthetic_run(tmp_path / name, members=2, stop_before="index") for name in ("one", "two"))
    assert one.identity != two.identity
    assert {path.name for path in one.path.rglob("*")} == {path.name for path in two.path.rglob("*")}
    assert {**one.read_manifest(), "id": ""} == {**two.read_manifest(), "id": ""}
