"""Origins: found from their files, chosen by settings old and new, and asked by all others for what they offer."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sae_core.activations.sharing import activations_key
from sae_core.analysis.atoms.stage import LENS
from sae_core.foundation.errors import UserError
from sae_core.foundation.files.whole_files import read_json
from sae_core.foundation.origins import ORIGINS
from sae_core.foundation.run import Run
from sae_core.foundation.settings.reading import load_settings
from sae_core.foundation.settings.run_settings import RunSettings

OLD = {"text.source": "known", "model.name": "known"}


def known(**overrides: Any) -> RunSettings:
    return load_settings(overrides={"origin.kind": "known", **overrides})


def test_old_names_choose_an_origin_and_stay_in_the_manifest(tmp_path: Path) -> None:
    old, new = load_settings(overrides=OLD), known()
    assert (old, old.origin.kind, new.origin) == (new, "known", ORIGINS["known"]())
    run = Run.create(tmp_path / "run", new)
    written = read_json(run.manifest_path)["settings"]
    assert "origin" not in written  # an older version of this package would refuse it
    assert (written["text"]["source"], written["model"]["name"]) == ("known", "known")
    assert Run.open(run.path).settings == new
    assert load_settings(base=old) == old
    assert load_settings().origin.kind == "language_model"


def test_an_origin_is_chosen_in_a_file_of_settings(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text('[origin]\nkind = "known"\n[truth]\nfeatures = 7\n')
    assert load_settings(file) == known(**{"truth.features": 7})


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ({"model.name": "known"}, "set both to known, or neither"),
        ({"origin.kind": "noise"}, "'known', 'language_model'"),
        ({"origin.kind": [1]}, "'known', 'language_model'"),
        ({"origin.kind": "known", "origin.files": 3}, r"Unknown setting origin\.files .*; known there: kind\."),
        ({"origin.files": 3}, r"Unknown setting origin\.files .*; known there: kind\."),
        ({"origin.kind": "known", "model.name": "gpt2"}, r"reads no text; leave out model\.name \(gpt2\)"),
        ({"origin.kind": "arrays"}, r"names no file of activations; give --activations FILE"),
        ({"origin.kind": "arrays", "origin.files": ["a.npy"], "model.name": "gpt2"}, r"reads no text; leave out model"),
        ({"origin.kind": "language_model", **OLD}, r"reads text, but text\.source or model\.name is known"),
    ],
)
def test_what_contradicts_itself_is_refused(overrides: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        load_settings(overrides=overrides)


def test_what_an_origin_lacks_is_said_with_what_the_run_has(tmp_path: Path) -> None:
    drawn, read = (Run.create(tmp_path / name, each) for name, each in (("a", known()), ("b", load_settings())))
    for run, require in ((drawn, "text"), (drawn, "rows"), (read, "truth")):
        with pytest.raises(UserError, match=run.settings.origin.title):
            getattr(run.settings.origin, f"require_{require}")(run)
    for run, require in ((read, "text"), (read, "rows"), (drawn, "truth")):
        getattr(run.settings.origin, f"require_{require}")(run)
    assert "come from a known dictionary" in LENS.skipped(drawn, "single")
    assert "the facts of the corpus say why" in LENS.skipped(read, "single")


def test_people_read_what_activations_are_of() -> None:
    settings = load_settings(overrides={"model.site": "mlp", "text.source": "a.csv"})
    assert (
        settings.origin.described(settings) == "the MLP output of block 4 of the embedded language model, reading a.csv"
    )
    drawn = known(**{"truth.features": 4096})
    said = "activations drawn from a known dictionary of 4,096 features in 64 dimensions"
    assert drawn.origin.described(drawn) == said


def test_runs_share_activations_that_the_same_settings_decide() -> None:
    base, width = load_settings(), load_settings(overrides={"sae.width": 64, "data.shuffle": "disk"})
    layer, text = (load_settings(overrides=each) for each in ({"model.layer": 1}, {"text.source": "a.csv"}))
    assert activations_key(base) == activations_key(width) != activations_key(layer)
    together = [activations_key(each, places=False) for each in (base, layer, text)]
    assert together[0] == together[1] != together[2]
    assert activations_key(known()) != activations_key(known(**{"training.seed": 1}))
    assert activations_key(known()) == activations_key(known(**{"training.members": 2, "model.layer": 1}))


def test_origins_are_read_without_torch() -> None:
    code = "import sys, sae_core.foundation.run; print([name for name in ('torch', 'pandas') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_rows_of_arrays_are_called_by_what_they_are() -> None:
    origin = load_settings(overrides={"origin.kind": "arrays", "origin.files": ["a.npy"]}).origin
    assert Path(origin.model_dump()["files"][0]).is_absolute()  # the run may be opened from anywhere
    assert load_settings().origin.words({}).rows == "tokens"
    assert (origin.words({}).rows, origin.words({}).passages) == ("rows", "rows")
    assert origin.words({"roles": {"position": "time"}}).passages == "stretches"
