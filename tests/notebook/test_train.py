"""Training in Python: any array or batches, the weights of a run with the same seed, and one sentence for bad input."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from checkpoints import activations, written
from numpy.typing import NDArray
from sources import sparse_data
from torch import Tensor

import sae_core as sc
from sae_core.activations.store.cache import CacheWriter
from sae_core.ensembles.ensemble import load_ensemble
from sae_core.foundation.method import Method, Several
from sae_core.foundation.methods import EVERY, EXTENDED, TRAINED
from sae_core.foundation.progress import Tick
from sae_core.foundation.run import Run
from sae_core.foundation.settings.architectures import DECLARED
from sae_core.foundation.settings.run_settings import RunSettings
from sae_core.notebook import ensemble as ensembles
from sae_core.notebook.given import ArraySource, BatchSource
from sae_core.sae import ARCHITECTURES
from sae_core.training.train import train_run

ROWS, D = 600, 12
SMALL: dict[str, Any] = {"width": 16, "k": 2, "tokens": 1200, "batch_size": 100, "progress": False}


@pytest.fixture(scope="module")
def acts() -> NDArray[np.float32]:
    found: NDArray[np.float32] = sparse_data(ROWS, d_in=D, features=24).numpy()
    return found


def train(acts: Any, **settings: Any) -> sc.Ensemble:
    return sc.train(acts, **{**SMALL, **settings})


def weights(ensemble: Any) -> Tensor:
    return torch.cat([tensor.flatten() for _, tensor in sorted(ensemble.state_dict().items())])


def same(one: Any, other: Any) -> bool:
    return torch.equal(weights(one), weights(other))


def test_a_run_on_the_same_rows_has_the_same_weights(acts: NDArray[np.float32], tmp_path: Path) -> None:
    writer = CacheWriter(tmp_path / "cache", d_in=D, dtype="float32", contents="x")
    writer.append(torch.from_numpy(acts))
    cache = writer.finish()
    source = ArraySource(acts)
    assert torch.equal(source.mean_D, cache.mean_D)
    assert source.scale == cache.scale
    for method in ("bagged", "boosted", "bag_of_boosted"):
        training = {"methods": [method], "members": 4, "tokens": 1200, "batch_size": 100, "seed": 3}
        run = Run.create(
            tmp_path / method, RunSettings.model_validate({"sae": {"width": 16, "k": 2}, "training": training})
        )
        train_run(run, source=cache)
        mine = train(acts, method=method, members=4, seed=3)
        assert same(mine, load_ensemble(run.ensemble(method))), method
        assert mine.method == method


def test_the_same_seed_gives_the_same_weights_whatever_the_array_is(acts: NDArray[np.float32], tmp_path: Path) -> None:
    np.save(tmp_path / "acts.npy", acts)
    forms: list[Any] = [
        *(torch.from_numpy(acts), torch.from_numpy(acts).double(), acts.astype(np.float64), acts.tolist()),
        *(np.asfortranarray(acts), pd.DataFrame(acts), np.load(tmp_path / "acts.npy", mmap_mode="r")),
        torch.from_numpy(acts).requires_grad_(),
    ]
    expected = train(acts, members=2)
    assert all(same(train(form, members=2), expected) for form in forms)
    assert not same(train(acts, members=2, seed=1), expected)
    # A generator is read once and then shuffled as the array is.
    assert same(train((part for part in np.array_split(acts, 7)), members=2), expected)
    half = train(torch.from_numpy(acts).bfloat16(), members=2)
    assert same(half, train(torch.from_numpy(acts).bfloat16().float(), members=2))


def test_batches_are_taken_in_their_order_pass_after_pass(acts: NDArray[np.float32]) -> None:
    parts = np.array_split(acts, 7)
    source = BatchSource(parts, most=10**6)
    assert (source.rows, source.d_in) == (ROWS, D)
    np.testing.assert_allclose(source.mean_D, acts.astype(np.float64).mean(axis=0), rtol=1e-12)
    twice = torch.from_numpy(np.concatenate([acts, acts]))
    batches = source.batches(batch_size=250, seed=0)
    found = torch.cat([next(batches) for _ in range(4)])
    assert torch.equal(found, twice[:1000])
    assert torch.equal(next(source.batches(batch_size=250, seed=0, first_step=3)), twice[750:1000])
    assert BatchSource(parts, most=130).rows == 130
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.from_numpy(acts)), batch_size=64)
    assert same(train(parts, method="boosted", members=2), train(loader, method="boosted", members=2))


def test_endless_batches_are_read_as_far_as_they_are_trained_on(acts: NDArray[np.float32]) -> None:
    read: list[int] = []

    def forever() -> Iterator[NDArray[np.float32]]:
        while True:
            read.append(1)
            yield acts[:200]

    train(forever(), method="single")
    assert len(read) == SMALL["tokens"] / 200


class Twins(Method):
    """A bag of the same SAE with two seeds."""

    name = "twins"
    colour = "#000000"
    place = 99

    def layout(self, settings: RunSettings) -> Several:
        return Several(self.saes(settings)[:2])


class Shifted(sc.SAE):
    """ReLU behind a bound of its own."""

    architecture = "shifted"
    settings = ("sparsity", "bound")
    own_settings = {"bound": ("Size", 0.2, "The bound.")}

    def __init__(self, d_in: int, width: int, *, bound: float = 0.2, seed: int = 0) -> None:
        super().__init__(d_in, width, seed=seed)
        self.bound = bound

    def activate(self, pre_BN: Tensor) -> Tensor:
        return pre_BN * (pre_BN > self.bound)

    def fold_input_scale(self, scale: float) -> None:
        super().fold_input_scale(scale)
        self.bound /= scale


SHIFTED = DECLARED.pop(ARCHITECTURES.pop("shifted").architecture)


def test_methods_and_architectures_of_others_are_taken(
    acts: NDArray[np.float32], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ensemble = train(acts, method=Twins, members=5)
    assert (len(ensemble), ensemble.method) == (2, "twins")
    assert same(train(acts, method=Twins(), members=5), ensemble)
    with pytest.raises(sc.UserError, match=r"Shifted'>, which is no registered architecture"):
        train(acts, architecture=Shifted)
    monkeypatch.setitem(ARCHITECTURES, "shifted", Shifted)
    monkeypatch.setitem(DECLARED, "shifted", SHIFTED)
    options: dict[str, Any] = {"method": "single", "k": 16}
    shifted = next(train(acts, architecture=Shifted, bound=0.7, **options).saes())
    assert isinstance(shifted, Shifted)
    assert shifted.bound == pytest.approx(0.7 / ArraySource(acts).scale)
    run = sc.Run.create(tmp_path / "run", sc.load_settings(overrides={"sae.architecture": "shifted", "sae.bound": 0.7}))
    assert sc.Run.open(run.path).settings.sae.bound == 0.7  # type: ignore[attr-defined]
    with pytest.raises(sc.UserError, match=r"Unknown setting sae\.bond in the command line; known there: .*bound"):
        sc.load_settings(overrides={"sae.bond": 0.7})
    with pytest.raises(sc.UserError, match=r"sae\.bound in train\(\) is not usable: .*greater than 0"):
        train(acts, architecture="shifted", bound=-1, **options)


def test_every_declared_method_can_be_trained(acts: NDArray[np.float32]) -> None:
    settings = RunSettings.model_validate({"sae": {"width": 16, "k": 2}, "training": {"members": 2}})
    for name in TRAINED:
        given = {"boost_from": sc.TopKSAE(D, 8, k=1).eval()} if name == EXTENDED else {}
        ensemble = train(acts, method=name, members=2, inner=2, tokens=100, **given)
        assert len(list(ensemble.saes())) == len(list(EVERY[name].layout(settings).ones())) + len(given), name


def test_new_members_learn_what_a_given_one_leaves(acts: NDArray[np.float32], tmp_path: Path) -> None:
    first = train(acts, method="single")
    longer = train(acts, boost_from=first, members=2)
    assert longer.method == "extended"
    assert [member.width for member in longer] == [16, 16, 16]
    assert same(longer[0], first[0])
    assert longer[0] is not first[0]
    errors = [
        float((torch.from_numpy(acts) - longer.first(count).reconstruct(acts)).square().sum()) for count in (1, 3)
    ]
    assert errors[1] < errors[0]
    assert same(train(acts, boost_from=first.save(tmp_path / "first"), members=2), longer)
    bag = train(acts, members=2)
    assert len(train(acts, boost_from=bag, members=1)[0]) == 2  # type: ignore[arg-type]
    with pytest.raises(sc.UserError, match="boost_from is for activations of dimension 12, but acts has 11"):
        train(acts[:, 1:], boost_from=first)


BAD: list[tuple[str, Any, dict[str, Any]]] = [
    ("acts has the shape [12], but activations are [rows, D].", np.zeros(12), {}),
    ("reshape it to one row for each activation.", np.zeros((2, 3, 4)), {}),
    ("acts has 1 rows; give at least 2", np.ones((1, 4)), {}),
    ("acts holds nan in row 3, column 1", np.where(np.arange(20).reshape(5, 4) == 13, np.nan, 1.0), {}),
    ("acts holds inf in row 0, column 0", np.full((5, 4), 1e39), {}),
    ("All activations are 0", np.zeros((5, 4)), {}),
    ("acts holds complex128 values", np.zeros((5, 4), complex), {}),
    ("acts is a tensor whose numbers do not all lie in memory", torch.eye(5).to_sparse(), {}),
    ("acts holds bool values", torch.zeros(5, 4, dtype=torch.bool), {}),
    ("acts holds object values", np.array([["a", 1], ["b", 2]], object), {}),
    ("acts is a masked array", np.ma.masked_less(np.zeros((5, 4)), 1), {}),
    ("cannot be read as an array", [[1.0, 2.0], [3.0]], {}),
    ("acts is 'acts.npy'; give an array", "acts.npy", {}),
    ("acts is a int; give an array", 3, {}),
    ("acts is a dict; give an array", {"acts": np.ones((4, 4))}, {}),
    ("acts has one column", np.ones((4, 1)), {}),
    ("progress is 3; give True", None, {"progress": 3}),
    ("The batches hold 0 rows", [], {}),
    ("The batches hold 0 rows", iter([]), {}),
    ("Batch 1 of acts has 5 columns, but the batches before it have 4", [np.ones((3, 4)), np.ones((3, 5))], {}),
    ("Batch 0 of acts is a list of 2 things", [[np.ones((3, 4)), np.ones(3)]], {}),
    (
        "Batch 1 of acts holds nan in row 2",
        (np.where([[k == 1]] * 3, [[1, 1], [1, 1], [np.nan, 1]], 1.0) for k in (0, 1)),
        {},
    ),
    ("There is no method 'bagging'; known are single, bagged", None, {"method": "bagging"}),
    ("There is no method 'imported'", None, {"method": "imported"}),
    ("train() has no setting 'learning_rat'; did you mean learning_rate?", None, {"learning_rat": 1}),
    ("train() has no setting 'methods'", None, {"methods": ["single"]}),
    ("sae.k in train() is not usable", None, {"k": 0}),
    ("sae.k is 2 but sae.width only 1", None, {"width": 1}),
    ("sae.architecture in train() is not usable", None, {"architecture": "topkk"}),
    ("training.members in train() is not usable", None, {"members": 2.5}),
    ("takes a multiple of training.inner", None, {"method": "boosted_bags", "members": 3}),
    ("the L0 of relu follows from a penalty", None, {"method": "expanded_l0", "architecture": "relu"}),
    ("There is no device called 'gpu'", None, {"device": "gpu"}),
]


@pytest.mark.parametrize(("sentence", "bad", "settings"), BAD, ids=[str(number) for number in range(len(BAD))])
def test_bad_input_is_refused_in_one_sentence(
    sentence: str, bad: Any, settings: dict[str, Any], acts: NDArray[np.float32]
) -> None:
    with pytest.raises(sc.UserError) as caught:
        train(acts if bad is None else bad, **settings)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_progress_is_told_and_ctrl_c_leaves_nothing_behind(
    acts: NDArray[np.float32], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    ticks: list[Tick] = []
    train(acts, progress=ticks.append, members=2)
    assert [tick.done for tick in ticks] == [1200]
    assert ticks[-1].stage == "train bagged"

    def stop(tick: Tick) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(acts, progress=stop, tokens=10**6)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["gemma_scope", "sparsify", "llama_scope", "saelens gated"])
def test_saes_of_other_tools_are_ensembles_of_one(name: str, tmp_path: Path) -> None:
    made = written(name, tmp_path)
    ensemble = sc.load(made.folder)
    assert len(ensemble) == 1
    torch.testing.assert_close(ensemble.encode(activations().numpy()), made.coefs_BN, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ensemble.reconstruct(activations()), made.recon_BD, rtol=1e-4, atol=1e-5)


def test_many_rows_are_encoded_some_at_a_time(acts: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch) -> None:
    ensemble = train(acts, method="boosted", members=2)
    whole = ensemble.encode(acts)
    monkeypatch.setattr(ensembles, "BLOCK_CELLS", 32 * 70)  # 70 rows at a time
    torch.testing.assert_close(ensemble.encode(acts), whole)
    code = ensemble.encode_sparse(acts)
    assert code.shape == (ROWS, 32)
    assert bool((code.rows_E.diff() >= 0).all())
    assert torch.equal(code.dense(), ensemble.encode(acts))
    bad = acts.copy()
    bad[500, 3] = np.inf
    with pytest.raises(sc.UserError, match="acts holds inf in row 500, column 3"):
        ensemble.encode(bad)


def test_what_is_saved_is_loaded_again(acts: NDArray[np.float32], tmp_path: Path) -> None:
    ensemble = train(acts, method="bag_of_boosted", members=4)
    folder = ensemble.save(tmp_path / "my" / "ensemble")
    again = sc.load(str(folder))
    assert same(again, ensemble)
    assert again.curves is not None
    pd.testing.assert_frame_equal(again.curves, ensemble.curves, check_dtype=False)
    codes = ensemble.encode(acts)
    assert torch.equal(again.encode(torch.from_numpy(acts)), codes)
    assert torch.equal(again.encode_sparse(acts).dense(), codes)
    torch.testing.assert_close(again.reconstruct(acts), again.decode(codes), rtol=1e-4, atol=1e-4)
    one = sc.load(folder / "member_00" / "member_01")
    assert len(one) == 1
    assert torch.equal(one[0].dictionary, ensemble[0][1].dictionary)  # type: ignore[index]
    with pytest.raises(sc.UserError, match="holds an ensemble; choose another folder, or give overwrite=True"):
        ensemble.save(folder)
    train(acts, method="single").save(folder, overwrite=True)
    assert len(sc.load(folder)) == 1
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("keep")
    with pytest.raises(sc.UserError, match="is there already"):
        ensemble.save(tmp_path / "other", overwrite=True)
    for name in ("a\0b", "x" * 300):
        with pytest.raises(sc.UserError, match="cannot be a folder"):
            ensemble.save(tmp_path / name)
    with pytest.raises(sc.UserError, match="holds no SAE of a known format"):
        sc.load(tmp_path / "other")
    (tmp_path / "link").symlink_to(folder)
    ensemble.save(tmp_path / "link", overwrite=True)
    assert same(sc.load(folder), ensemble)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "my", "other"]
    assert [path.name for path in folder.parent.iterdir()] == ["ensemble"]
    for bad, sentence in ((acts[:, 1:], "acts has 11 columns, but the ensemble is for"), (acts * np.nan, "holds nan")):
        with pytest.raises(sc.UserError, match=sentence):
            ensemble.encode(bad)
