"""Write an ensemble for other tools: as one SAE where it is one, else as the folders of its members in their order."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from sae_core.ensembles import stand_alone
from sae_core.ensembles.ensemble import Ensemble, saes_of, save_ensemble
from sae_core.foundation.errors import UserError
from sae_core.foundation.files.whole_files import write_text
from sae_core.foundation.files.whole_folders import require_new, whole_folder
from sae_core.foundation.folders import EnsembleFolder
from sae_core.sae import SAE, Kernel
from sae_core.sae.formats.declaration import assembled
from sae_core.sae.formats.saelens import save_sae

LOADER = "load.py"
"""The file beside the members that loads them with torch and safetensors alone."""


def weighted(ensemble: Ensemble, weight: float = 1.0) -> list[tuple[SAE, float]]:
    """Every SAE of an ensemble with its share in the reconstruction.

    Raises:
        UserError: If one reads what another leaves, as there is no encoder for all of them then.
    """
    if ensemble.is_staged:
        raise UserError("A boosted ensemble is not one SAE, as its stages read what others leave; export its members.")
    found: list[tuple[SAE, float]] = []
    for member, own in zip(ensemble, ensemble.weights, strict=True):
        found += (
            weighted(member, weight * own) if isinstance(member, Ensemble) else [(next(saes_of(member)), weight * own)]
        )
    return found


def threshold_of(sae: SAE) -> Tensor | None:
    """The level [N] above which preactivations are the coefficients; None where that depends on other features.

    Raises:
        UserError: If the SAE's class does not declare what it computes.
    """
    if sae.kernel is None:
        raise UserError(
            f"What a {type(sae).__name__} computes is known to no other tool, so that it cannot be exported."
        )
    if sae.kernel is Kernel.TOP_OF_ROW:
        return None
    level = sae.b_enc.new_zeros(()) if sae.kernel is Kernel.POSITIVE else sae.threshold
    return level.detach().clamp_min(0.0).expand(sae.width)


def is_one(ensemble: Ensemble) -> bool:
    """Whether the ensemble is one SAE, exactly: one member alone, or a bag of those that have thresholds."""
    if ensemble.is_staged:
        return False
    found = weighted(ensemble)
    return _alone(found) or all(threshold_of(sae) is not None for sae, _ in found)


def _alone(found: list[tuple[SAE, float]]) -> bool:
    return len(found) == 1 and found[0][1] == 1.0


@torch.no_grad()
def matching_thresholds(ensemble: Ensemble, acts_BD: Tensor) -> dict[int, Tensor]:
    """A level for each SAE that keeps the k largest, by its place: that above which k are active on average.

    Args:
        ensemble: A bag.
        acts_BD: Activations to measure it on.
    """
    found = {}
    for place, (sae, _) in enumerate(weighted(ensemble)):
        if threshold_of(sae) is None:
            # Of every activation no more than the 4·k largest: so many are active on hardly any at that level.
            values_BK = torch.cat(
                [sae.pre_activations(part).topk(min(4 * sae.k, sae.width)).values for part in acts_BD.split(1024)]
            )
            level = values_BK.flatten().sort(descending=True).values[len(acts_BD) * sae.k - 1]
            found[place] = level.clamp_min(0.0).expand(sae.width)
    return found


@torch.no_grad()
def as_one(ensemble: Ensemble, thresholds: Mapping[int, Tensor] | None = None) -> SAE:
    """The one SAE that a bag is: the same coefficients, weights folded in, and the same reconstruction.

    With preactivations z of member j and its weight α, a coefficient α·z·H(z − θ) is α·z where that exceeds α·θ.

    Args:
        ensemble: A bag.
        thresholds: What stands for the choice of the k largest, by the SAE's place; see `matching_thresholds`.

    Raises:
        UserError: If the ensemble is not one SAE.
    """
    found = weighted(ensemble)
    if _alone(found):
        return found[0][0]
    parts: dict[str, list[Tensor]] = {"W_enc": [], "b_enc": [], "W_dec": [], "threshold": []}
    b_dec_D = torch.zeros(ensemble.d_in)
    for place, (sae, weight) in enumerate(found):
        level_N = threshold_of(sae) if thresholds is None or place not in thresholds else thresholds[place]
        if level_N is None:
            raise UserError(
                "A bag of SAEs that keep the k largest is not one SAE, as k would range over all; use --one."
            )
        if weight <= 0:
            raise UserError(f"Member {place} has the weight {weight:g}; only positive ones can be folded into an SAE.")
        parts["W_enc"].append(weight * sae.W_enc.cpu())
        parts["b_enc"].append(weight * (sae.b_enc - sae.b_dec @ sae.W_enc).cpu())
        parts["W_dec"].append(sae.W_dec.cpu())
        parts["threshold"].append(weight * level_N.cpu())
        b_dec_D += weight * sae.b_dec.cpu()
    joined = {name: torch.cat(tensors, dim=1 if name == "W_enc" else 0) for name, tensors in parts.items()}
    kind = "jumprelu" if bool(joined["threshold"].any()) else "relu"
    if kind == "relu":
        del joined["threshold"]
    return assembled(kind, {**joined, "b_dec": b_dec_D}, subtracts_b_dec=False)


def export_one(sae: SAE, folder: Path) -> None:
    """Write one SAE in SAELens' format into a new folder.

    Raises:
        UserError: If the folder holds something.
    """
    with whole_folder(require_new(folder)) as beside:
        save_sae(sae, beside)


def export_members(ensemble: Ensemble, folder: Path) -> None:
    """Write the members in their order, each in SAELens' format, the manifest, and a loader of a few lines.

    Raises:
        UserError: If the folder holds something, or a member is of a class that the loader does not know.
    """
    place = require_new(folder)
    for sae in ensemble.saes():
        threshold_of(sae)
    source = Path(stand_alone.__file__).read_text(encoding="utf-8")
    with whole_folder(place) as beside:
        save_ensemble(ensemble, EnsembleFolder(beside))
        write_text(beside / LOADER, "".join(_without_marks(line) for line in source.splitlines(keepends=True)))


def _without_marks(line: str) -> str:
    """A line of the loader without what only our checks read."""
    return "" if line.startswith("# type:") else re.sub("  # noqa: .*", "", line)
