"""A typed text: the same coefficients as the index, the energy left, and several readers at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from sae_core.activations.corpus import Corpus
from sae_core.activations.origins.language_model.kept_passages import documents
from sae_core.activations.origins.language_model.reading import LanguageModel
from sae_core.activations.origins.text.token_texts import PARTIAL
from sae_core.analysis.index.activation_index import ActivationIndex
from sae_core.analysis.live_text import MAX_TOKENS, LiveText, TextReader, encode_text, read_text
from sae_core.ensembles.ensemble import load_ensemble
from sae_core.foundation.errors import UserError
from sae_core.foundation.run import Run


@pytest.fixture(scope="module")
def reader(trained_run: Run) -> TextReader:
    return TextReader(trained_run.settings.model, device="cpu")


def live(run: Run, reader: TextReader, name: str, text: str) -> LiveText:
    ensemble = load_ensemble(run.ensemble(name))
    return encode_text(ensemble, read_text(run, reader, text), Corpus.open(run).texts)


def dense(found: LiveText, features: int) -> np.ndarray:
    coefs_TM = np.zeros((len(found), features), np.float32)
    coefs_TM[found.rows, found.features] = found.values
    return coefs_TM


@pytest.mark.parametrize("name", ["single", "bagged", "boosted"])
def test_a_document_has_the_coefficients_of_the_index(trained_run: Run, reader: TextReader, name: str) -> None:
    index = ActivationIndex.open(trained_run.ensemble(name).index)
    corpus, texts = Corpus.open(trained_run), documents(trained_run, held_out=False)
    for document in (0, 7):
        found = live(trained_run, reader, name, texts[document].text)
        start, stop = corpus.offsets[document : document + 2].tolist()
        assert found.tokens.tolist() == corpus.tokens[start:stop].tolist()
        assert found.texts == corpus.window_texts(range(start, stop))
        indexed_TM = np.zeros((stop - start, index.features), np.float32)
        for feature in range(index.features):
            positions, values = index.feature(feature)
            inside = (positions >= start) & (positions < stop)
            indexed_TM[positions[inside] - start, feature] = values[inside]
        assert indexed_TM.any()
        # The model pads a text differently when it reads others with it, which changes the last bits.
        np.testing.assert_allclose(dense(found, index.features), indexed_TM, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["bagged", "boosted"])
def test_coefficients_and_energies_equal_a_plain_pass_in_double_precision(
    trained_run: Run, reader: TextReader, name: str
) -> None:
    text = "The index returns a copy along the axis, but not the mask."
    found = live(trained_run, reader, name, text)
    model = LanguageModel.load(trained_run.settings.model)
    acts_TD = next(model.activations([text])).acts_TD.half().double()
    ensemble = load_ensemble(trained_run.ensemble(name)).double()
    with torch.no_grad():
        coefs_TM = ensemble.encode(acts_TD).numpy()
        left = [(acts_TD - ensemble.first(count + 1)(acts_TD)).square().sum(dim=1) for count in range(len(ensemble))]
    np.testing.assert_allclose(dense(found, ensemble.offsets[-1]), coefs_TM, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.energy_T, acts_TD.square().sum(dim=1).numpy(), rtol=1e-5)
    np.testing.assert_allclose(found.left_JT, torch.stack(left).numpy(), rtol=1e-3, atol=1e-3)
    assert "".join(found.texts) == text
    assert not found.cut
    for member in range(len(ensemble)):
        features, rows, values = found.member(member)
        assert ((features >= ensemble.offsets[member]) & (features < ensemble.offsets[member + 1])).all()
        assert (np.diff(rows) >= 0).all()
        assert (values != 0).all()
    strongest = int(found.features[found.values.argmax()])
    assert found.values_of(strongest).tolist() == dense(found, ensemble.offsets[-1])[:, strongest].tolist()


def test_a_long_text_is_cut_and_says_so(trained_run: Run, reader: TextReader) -> None:
    found = live(trained_run, reader, "single", "the index returns a copy " * 10_000)
    assert found.cut
    assert 0 < len(found) <= min(MAX_TOKENS, trained_run.settings.model.context)
    assert not live(trained_run, reader, "single", "the index").cut


@pytest.mark.parametrize("text", ["", "\ud800 odd", "<|bos|> is text", "\u202e\x00 <img src=x>"])
def test_odd_texts_are_read_or_refused(trained_run: Run, reader: TextReader, text: str) -> None:
    if not text:
        with pytest.raises(UserError, match="no token"):
            live(trained_run, reader, "single", text)
        return
    found = live(trained_run, reader, "single", text)
    whole = "".join(found.texts).replace(PARTIAL, "")  # of a character that is split over tokens
    # Half of a pair and a NUL are read as the sign for what is no character, which is taken away here, too.
    assert whole == text.replace("\ud800", "").replace("\x00", "")


def test_several_people_read_different_texts_at_once(trained_run: Run, reader: TextReader) -> None:
    texts = [f"the index returns {number} copies" + " of the axis" * number for number in range(12)]
    alone = [live(trained_run, reader, "bagged", text) for text in texts]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(lambda text: live(trained_run, reader, "bagged", text), texts * 2))
    for number, found in enumerate(together):
        expected = alone[number % len(texts)]
        assert found.texts == expected.texts
        assert np.array_equal(found.features, expected.features)
        assert np.array_equal(found.values, expected.values)


def test_an_ensemble_for_another_dimension_is_refused(trained_run: Run, reader: TextReader) -> None:
    ensemble = load_ensemble(trained_run.ensemble("single"))
    read = read_text(trained_run, reader, "the index")
    narrow = type(read)(read.text, read.tokens, read.acts_TD[:, :-1], cut=False)
    with pytest.raises(UserError, match="dimension"):
        encode_text(ensemble, narrow, Corpus.open(trained_run).texts)
