"""Map the atoms of two ensembles together, so that people can compare them side by side on the same coordinates.

The atoms of both ensembles are directions in the same space, so a cosine means the same within and between ensembles.
UMAP therefore gets one graph of neighbours over all atoms, and a distance on the map means the same on both sides. Two
separate maps (rotated onto each other, or tied together by matched atoms as in AlignedUMAP) would agree only at the
matched atoms, and would hide which atoms of one side lie beside which atoms of the other.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from sae_core.foundation.errors import UserError
from sae_core.foundation.files.whole_files import read_object, read_table, write_table
from sae_core.foundation.progress import Progress, Tick, silent
from sae_core.foundation.run import Run
from sae_core.training.declared import TRAIN

if TYPE_CHECKING:
    from torch import Tensor

# Only the function that makes a map imports torch, since pages mostly read existing maps.


@dataclass(frozen=True, slots=True)
class Side:
    """One side of a joint map: an ensemble of a run."""

    run: Run
    ensemble: str

    @property
    def features(self) -> int:
        """Number of atoms, from the ensemble's manifest."""
        return int(sum(read_object(self.run.ensemble(self.ensemble).manifest, widths=list)["widths"]))


def joint_map_path(left: Side, right: Side) -> Path:
    """Path of the joint map, in the folder of the left ensemble. Training the right one again changes it."""
    facts = [right.run.read_manifest().get("created"), TRAIN.facts(right.run, right.ensemble), right.features]
    mark = hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=4).hexdigest()
    return left.run.ensemble(left.ensemble).joint_map(f"{right.run.name}-{right.ensemble}-{mark}")


def read_joint_map(left: Side, right: Side) -> pd.DataFrame | None:
    """Read the joint map that `make_joint_map` has written; None if there is no map yet."""
    path = joint_map_path(left, right)
    return read_table(path) if path.exists() else None


def make_joint_map(left: Side, right: Side, *, progress: Progress = silent) -> pd.DataFrame:
    """Map the atoms of two ensembles together, and store the map with the left one; an existing map is read instead.

    Args:
        left: An ensemble; its run's seed decides the map.
        right: Another ensemble of this run, or of a run that reads the same activations.
        progress: Told the work done.

    Returns:
        One row per atom, the left side first: side (0 or 1), feature, x, y, cluster, closest (the most similar atom of
        the other side) and cosine (with that atom).

    Raises:
        UserError: If the two ensembles cannot be compared, or a file is damaged.
    """
    import torch

    from sae_core.analysis.atoms.atom_map import cluster_map, map_atoms

    require_comparable(left, right)
    there = read_joint_map(left, right)
    if there is not None:
        return there
    dictionaries = [_dictionary(side) for side in (left, right)]
    if dictionaries[0].shape[1] != dictionaries[1].shape[1]:
        raise UserError(
            f"{_name(left)} has atoms of {dictionaries[0].shape[1]} dimensions and {_name(right)} of "
            f"{dictionaries[1].shape[1]}; choose two of the same model and layer."
        )
    sizes = [len(dictionary) for dictionary in dictionaries]
    closest, cosines = _closest(dictionaries, progress)
    xy_M2 = map_atoms(torch.cat(dictionaries), seed=left.run.settings.training.seed, progress=progress)
    table = pd.DataFrame(
        {
            "side": np.repeat([0, 1], sizes),
            "feature": np.concatenate([np.arange(size) for size in sizes]),
            "x": xy_M2[:, 0],
            "y": xy_M2[:, 1],
            "cluster": cluster_map(xy_M2),
            "closest": closest,
            "cosine": cosines,
        }
    )
    path = joint_map_path(left, right)
    path.parent.mkdir(exist_ok=True)
    write_table(path, table)
    return table


def require_comparable(left: Side, right: Side) -> None:
    """Refuse two ensembles whose atoms are directions in different spaces.

    Raises:
        UserError: If both sides are the same ensemble, or their runs read different models, layers or sites.
    """
    if left.run.path.resolve() == right.run.path.resolve():
        if left.ensemble == right.ensemble:
            raise UserError(f"Both sides are {_name(left)}; choose another ensemble for one of them.")
        return
    for setting in ("name", "revision", "layer", "site"):
        here, there = (getattr(side.run.settings.model, setting) for side in (left, right))
        if here != there:
            raise UserError(
                f"model.{setting} is {here} in {left.run.name} and {there} in {right.run.name}, so their atoms are "
                "directions in different spaces; choose runs of the same model, layer and site."
            )


def _name(side: Side) -> str:
    return f"{side.ensemble} of {side.run.name}"


def _dictionary(side: Side) -> Tensor:
    from sae_core.ensembles.ensemble import load_ensemble

    return load_ensemble(side.run.ensemble(side.ensemble)).dictionary.detach().float().cpu()


def _closest(dictionaries: list[Tensor], progress: Progress) -> tuple[np.ndarray, np.ndarray]:
    """(number of the most similar atom of the other side, cosine with it) of all atoms, the left ones first."""
    from sae_core.analysis.similarity.cosines import Atoms, best_matches

    places, cosines = [], []
    for done, (own, other) in enumerate((dictionaries, dictionaries[::-1])):
        cosine_N, place_N = best_matches(Atoms(own), Atoms(other))
        places.append(place_N.numpy())
        cosines.append(cosine_N.numpy())
        progress(Tick("compare atoms", done + 1, 2, unit="sides"))
    return np.concatenate(places), np.concatenate(cosines)
