"""Settings: defaults, TOML, overrides, and refusals that name the setting."""

import os
from typing import get_args

import pytest

from sae_core.foundation.errors import UserError
from sae_core.foundation.methods import BY_DEFAULT, EVERY, title_of
from sae_core.foundation.settings.reading import load_settings, parse_settings
from sae_core.foundation.settings.run_settings import RunSettings
from sae_core.foundation.settings.toml_files import parse_value


def test_toml_and_overrides_are_merged(tmp_path):
    path = tmp_path / "settings.toml"
    path.write_text('[sae]\nk = 8\nwidth = 64\n[training]\nmethods = ["single", "boosted"]\n')
    settings = load_settings(path, {"sae.k": 4, "training.members": 2})
    assert (settings.sae.k, settings.sae.width, settings.training.members) == (4, 64, 2)
    assert settings.training.methods == ("single", "boosted")
    assert settings.model == RunSettings().model


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"sae.widht": 3}, ["sae.widht", "width", "the command line"]),
        ({"saes.width": 3}, ["saes", "training"]),
        ({"sae.width": -1}, ["sae.width", "-1"]),
        ({"sae.width": "many"}, ["sae.width", "many"]),
        ({"sae.architecture": "gated"}, ["sae.architecture", "topk", "gated"]),
        ({"sae.width": 8, "sae.k": 9}, ["sae.k is 9", "8"]),
        ({"training.methods": ["wide"]}, ["training.methods", "expanded_l0", "wide"]),
        (
            {"training.methods": ["expanded_l0"], "sae.architecture": "jumprelu"},
            ["training.methods", "expanded_l0", "jumprelu", "leave it out", "batchtopk"],
        ),
    ],
)
def test_refusals_name_the_setting_in_one_sentence(overrides, words):
    with pytest.raises(UserError) as caught:
        load_settings(overrides=overrides)
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert "\n" not in message


@pytest.mark.parametrize("content", [None, b"[sae\n", b"\xff\xfe\x00"])
def test_unreadable_settings_file_is_named(tmp_path, content):
    path = tmp_path / "settings.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"settings\.toml"):
        load_settings(path)


def test_expanded_saes_are_as_wide_as_all_members_and_one_has_their_k():
    settings = load_settings(overrides={"sae.width": 64, "sae.k": 4, "training.members": 3})

    def saes(settings: RunSettings, method: str) -> set[tuple[int, int]]:
        return {(one.sae.width, one.sae.k) for one in EVERY[method].layout(settings).ones()}

    sizes = {method: saes(settings, method) for method in (*BY_DEFAULT, "expanded_l0")}
    assert sizes == {
        **{method: {(64, 4)} for method in ("single", "bagged", "boosted")},
        "expanded": {(192, 4)},
        "expanded_l0": {(192, 12)},
    }
    own = load_settings(base=settings, overrides={"training.member_k": [2, 4, 8]})
    assert (saes(own, "expanded"), saes(own, "expanded_l0")) == ({(192, 4)}, {(192, 14)})
    assert saes(own, "bagged") == saes(own, "boosted") == {(64, 2), (64, 4), (64, 8)}
    titles = ["expanded", "expanded (same L0)", "expanded, long", "exp. (same L0), long"]
    assert [title_of(method) for method in EVERY if EVERY[method].size] == titles


def test_what_is_not_given_is_as_in_the_base(tmp_path):
    path = tmp_path / "settings.toml"
    path.write_text('[sae]\nk = 8\n[training]\nmethods = ["boosted"]\n')
    base = load_settings(overrides={"sae.k": 4, "sae.width": 96, "text.source": "a.csv"})
    settings = load_settings(path, {"training.members": 2}, base=base)
    assert (settings.sae.k, settings.sae.width, settings.text.source) == (8, 96, "a.csv")
    assert (settings.training.methods, settings.training.members) == (("boosted",), 2)
    assert load_settings(base=base) == base


def test_every_setting_has_a_description():
    for section in RunSettings.model_fields.values():
        for table in get_args(section.annotation) or (section.annotation,):
            for name, field in table.model_fields.items():
                assert field.description, name


WRONG_NUMBERS = {
    "sae.k": [True, 0, -1, 2.5, "many", float("nan"), 2**31, 10**30, None, [3]],
    "sae.width": [0, 2**31],
    "sae.sparsity": [True, -1, float("nan"), float("inf"), 1e39],
    "sae.bandwidth": [0, float("inf")],
    "sae.dead_after_tokens": [0, 10**18],
    "model.layer": [-1, False, 2**31],
    "model.context": [0, -4],
    "data.train_tokens": [0, 10**18],
    "training.learning_rate": [0, -1e-3, float("nan"), float("inf"), "fast"],
    "training.beta1": [1, 1.0, -0.1, float("nan")],
    "training.beta2": [1, float("inf")],
    "training.warmup": [1.1, float("nan")],
    "training.clip": [0, float("inf")],
    "training.seed": [-1, 2**32, True],
    "truth.seed": [-1, 2**32],
    "training.member_seeds": [[0, 1, 2, 2**32], [0, 1, 2, -1], [0, 1, 2], [0, 0, 1, 2]],
    "training.member_k": [[1, 2, 3], [1, 2, 3, 0], [1, 2, 3, 10**6], [True, 2, 3, 4]],
    "training.member_learning_rates": [[1e-3, 1e-3, 1e-3, float("nan")]],
    "training.methods": [[], ["single", "single"], "single", [["single"]]],
    "training.members": [0, 2**30],
    "evaluation.concept_features": [[0], [True]],
    "evaluation.bootstrap": [0, True],
    "truth.most": [0, 1],
    "truth.zipf": [float("inf"), 1e9],
    "text.source": ["", "a\0b", "\udcff", 3, None],
    "model.name": ["", "x" * 5000],
    "training.device": ["", 1],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in WRONG_NUMBERS.items() for value in values]
)
def test_values_that_cannot_be_right_are_refused(name, value):
    with pytest.raises(UserError) as caught:
        load_settings(overrides={name: value})
    message = str(caught.value)
    assert name in message, message
    assert len(message.splitlines()) == 1, message
    assert len(message) < 400, message
    message.encode("utf-8")


def test_every_number_has_a_largest_one():
    """No setting takes a number beyond 64 bits, nor infinity; what is found by trying, whatever its annotation says."""
    defaults = RunSettings().model_dump()
    for section, values in defaults.items():
        for name, value in values.items():
            known = {"truth.seed": 1, "text.max_documents": 1, "training.member_seeds": (1,) * 4}
            known |= {"training.member_k": (1,) * 4, "training.member_sparsity": (1.0,) * 4}
            known |= {"training.member_learning_rates": (1.0,) * 4, "data.leave_out": ("first",)}
            value = known.get(f"{section}.{name}", value)
            many = isinstance(value, tuple)
            one = value[0] if many else value
            if isinstance(one, bool) or not isinstance(one, int | float):
                continue
            for wrong in (10**19 if isinstance(one, int) else 10**39, float("inf"), float("nan"), True):
                with pytest.raises(UserError, match=f"{section}.{name}"):
                    load_settings(overrides={f"{section}.{name}": [*value[:-1], wrong] if many else wrong})


def test_settings_that_were_allowed_still_open():
    old = {"training": {"seed": 2**40, "methods": ["single", "single"]}}
    assert parse_settings(old, origin="run.json", stored=True).training.seed == 2**40
    with pytest.raises(UserError, match="training"):
        parse_settings(old, origin="the command line")


@pytest.mark.parametrize("content", ["a = " + "[" * 20_000, "a = " + "9" * 5000, "[sae]\nk = 3\nk = 4\n", "\0"])
def test_toml_that_no_parser_follows_is_named(tmp_path, content):
    path = tmp_path / "settings.toml"
    path.write_text(content)
    with pytest.raises(UserError, match=r"settings\.toml cannot be read as TOML") as caught:
        load_settings(path)
    assert len(str(caught.value)) < 400


def test_a_folder_and_a_pipe_are_no_settings_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(UserError, match=f"settings file {path}"):
            load_settings(path)


def test_a_value_on_the_command_line_is_one_value():
    assert parse_value("1\nother = 2") == "1\nother = 2"
    assert parse_value("[1, 2]") == [1, 2]
    assert parse_value("topk") == "topk"
    for text in ("[" * 20_000, "9" * 5000):
        with pytest.raises(UserError, match="nested too deeply or too long"):
            parse_value(text)
