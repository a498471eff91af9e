"""Settings: defaults, TOML, overrides, and refusals that name the setting."""

import pytest

from sae_core.config import EXPANDED, METHODS, RunSettings, load_settings, title_of
from sae_core.errors import UserError


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
    sizes = {method: (settings.sae_of(method).width, settings.sae_of(method).k) for method in (*METHODS, "expanded_l0")}
    assert sizes == {
        **dict.fromkeys(("single", "bagged", "boosted"), (64, 4)),
        "expanded": (192, 4),
        "expanded_l0": (192, 12),
    }
    own = load_settings(base=settings, overrides={"training.member_k": [2, 4, 8]})
    assert (own.sae_of("expanded").k, own.sae_of("expanded_l0").k) == (4, 14)
    titles = ["expanded", "expanded (same L0)", "expanded, long", "exp. (same L0), long"]
    assert [title_of(method) for method in EXPANDED] == titles


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
        for name, field in section.annotation.model_fields.items():
            assert field.description, name
