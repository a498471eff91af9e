"""The ensemble: members, weights and wiring (Gadgil, Lin, Lee, *Ensembling Sparse Autoencoders*, section 3).

parallel: every member encodes the activation (naive bagging, and one SAE as an ensemble of one).
residual: member j encodes what the members before it left (boosting).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sae_core.foundation.errors import UserError
from sae_core.foundation.files.whole_files import read_object, write_json
from sae_core.foundation.folders import EnsembleFolder
from sae_core.sae import SAE
from sae_core.sae.formats.saelens import load_atoms, load_sae, save_sae

Wiring = Literal["parallel", "residual"]


class Ensemble(nn.Module):
    """g(a) = Σ_j α_j·g_j(a_j), where a_j is a (parallel) or the residual that the earlier members leave (residual).

    The α_j are folded into the coefficients, so that atoms keep unit norm and `decode(encode(a))` is `forward(a)`
    (Proposition 1): coefficients [α_1·c¹; …; α_J·c^J], dictionary [W¹; …; W^J], bias Σ_j α_j·b_j.

    Feature f of the ensemble is feature f − offsets[j] of the member j with offsets[j] ≤ f < offsets[j + 1].

    Args:
        members: The SAEs, in order; all for the same dimension D.
        wiring: parallel or residual.
        weights: α_j, one a member; by default 1/J when parallel and 1 when residual.
        method: What the ensemble is called: single, bagged, boosted, expanded or another name.
    """

    def __init__(
        self, members: Sequence[SAE], *, wiring: Wiring, weights: Sequence[float] | None = None, method: str = ""
    ) -> None:
        super().__init__()
        if not members:
            raise UserError("An ensemble needs at least one member.")
        if len({member.d_in for member in members}) != 1:
            raise UserError(f"Members must share one dimension; these have {[member.d_in for member in members]}.")
        default = 1.0 if wiring == "residual" else 1.0 / len(members)
        self.weights = [default] * len(members) if weights is None else [float(weight) for weight in weights]
        if len(self.weights) != len(members):
            raise UserError(f"{len(self.weights)} weights were given for {len(members)} members; give one a member.")
        self.members = nn.ModuleList(members)
        self.wiring: Wiring = wiring
        self.method = method or ("single" if len(members) == 1 else "boosted" if wiring == "residual" else "bagged")

    def __len__(self) -> int:
        """The number of members, J."""
        return len(self.members)

    def __iter__(self) -> Iterator[SAE]:
        """The members, in order."""
        return iter(self.members)  # type: ignore[arg-type]

    @property
    def d_in(self) -> int:
        """Dimension of the activations, D."""
        return self[0].d_in

    def __getitem__(self, number: int) -> SAE:
        """Member ``number``."""
        return self.members[number]  # type: ignore[return-value]

    @property
    def widths(self) -> list[int]:
        """Features of each member."""
        return [member.width for member in self]

    @property
    def offsets(self) -> list[int]:
        """Number of the first feature of each member, and at the end the number of all features, M."""
        offsets = [0]
        for width in self.widths:
            offsets.append(offsets[-1] + width)
        return offsets

    @property
    def dictionary(self) -> Tensor:
        """All atoms [M, D], member after member."""
        return torch.cat([member.W_dec for member in self])

    @property
    def b_dec(self) -> Tensor:
        """Σ_j α_j·b_j, shape [D]."""
        return torch.stack([weight * member.b_dec for weight, member in zip(self.weights, self, strict=True)]).sum(
            dim=0
        )

    def member_codes(self, acts_BD: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """For each member: (its own coefficients [B, N_j], α_j times its reconstruction [B, D]).

        A generator, so that at most one member's dense code needs to exist at a time.
        """
        input_BD = acts_BD
        for weight, member in zip(self.weights, self, strict=True):
            code = member.encode_sparse(input_BD)
            part_BD = weight * member.decode_sparse(code)
            yield code.dense(), part_BD
            if self.wiring == "residual":
                input_BD = input_BD - part_BD

    def encode(self, acts_BD: Tensor) -> Tensor:
        """All coefficients [B, M], α folded in."""
        codes = zip(self.weights, self.member_codes(acts_BD), strict=True)
        return torch.cat([weight * coefs_BN for weight, (coefs_BN, _) in codes], dim=1)

    def decode(self, coefs_BM: Tensor) -> Tensor:
        """Reconstruction [B, D] from all coefficients [B, M]."""
        parts = coefs_BM.split(self.widths, dim=1)
        # Member by member: the concatenated dictionary would be a copy of all weights.
        return sum((part @ member.W_dec for part, member in zip(parts, self, strict=True)), start=self.b_dec)

    def forward(self, acts_BD: Tensor) -> Tensor:
        """Reconstruction [B, D] of activations [B, D]."""
        whole_BD, input_BD = torch.zeros_like(acts_BD), acts_BD
        for weight, member in zip(self.weights, self, strict=True):
            part_BD = weight * member(input_BD)
            whole_BD = whole_BD + part_BD
            if self.wiring == "residual":
                input_BD = input_BD - part_BD
        return whole_BD

    def first(self, count: int) -> Ensemble:
        """The ensemble of the first ``count`` members (sharing their weights); bagged ones are averaged anew."""
        if not 1 <= count <= len(self):
            raise UserError(f"The ensemble has {len(self)} members; it has no first {count}.")
        total = sum(self.weights[:count])
        scale = 1.0 if self.wiring == "residual" else sum(self.weights) / total
        weights = [weight * scale for weight in self.weights[:count]]
        return Ensemble(list(self)[:count], wiring=self.wiring, weights=weights, method=self.method)


def save_ensemble(ensemble: Ensemble, folder: EnsembleFolder) -> None:
    """Write members in SAELens' format, then the manifest, so that a folder with a manifest is whole."""
    for number, member in enumerate(ensemble):
        save_sae(member, folder.member(number))
    manifest = {
        "format": 1,
        "method": ensemble.method,
        "wiring": ensemble.wiring,
        "weights": ensemble.weights,
        "members": [folder.member(number).name for number in range(len(ensemble))],
        "d_in": ensemble.d_in,
        "widths": ensemble.widths,
    }
    write_json(folder.manifest, manifest)


def load_ensemble(folder: EnsembleFolder, device: str = "cpu", *, d_in: int | None = None) -> Ensemble:
    """Read an ensemble, ready for inference.

    Args:
        folder: Where it lies.
        device: Where it is wanted.
        d_in: Dimension of the activations that it is for, if it is known.

    Raises:
        UserError: If a file is missing, damaged or does not fit the manifest, or the dimension is another one.
    """
    there = _manifest(folder)
    members = [load_sae(folder.path / name, device=device) for name in there["members"]]
    widths = there.get("widths")
    if widths is not None and widths != [member.width for member in members]:
        raise UserError(f"{folder.manifest} gives the widths {widths}, not those of its members; train it again.")
    ensemble = Ensemble(members, wiring=there["wiring"], weights=there["weights"], method=there["method"]).eval()
    if d_in is not None and ensemble.d_in != d_in:
        raise UserError(
            f"{folder.path} holds an ensemble for activations of dimension {ensemble.d_in}, those of this run have "
            f"{d_in}; delete that folder and run train again."
        )
    return ensemble


def load_dictionaries(folder: EnsembleFolder, device: str = "cpu") -> list[Tensor]:
    """The atoms [N, D] of each member, without the rest; on the CPU they are mapped into memory.

    Raises:
        UserError: If a file is missing or damaged.
    """
    return [load_atoms(folder.path / name, device=device) for name in _manifest(folder)["members"]]


def _manifest(folder: EnsembleFolder) -> dict[str, Any]:
    """The manifest, checked: what it names lies in the folder, and every member has a finite weight."""
    manifest = read_object(folder.manifest, members=list, wiring=str, weights=list, method=str)
    names, weights = manifest["members"], manifest["weights"]
    inside = all(isinstance(name, str) and re.fullmatch(r"[\w-]+", name) for name in names)
    finite = all(isinstance(weight, int | float) and math.isfinite(weight) for weight in weights)
    if not names or not inside or not finite or len(weights) != len(names):
        raise UserError(f"{folder.manifest} does not name members and a weight for each; train the ensemble again.")
    if manifest["wiring"] not in ("parallel", "residual"):
        raise UserError(f"{folder.manifest} has the wiring {manifest['wiring'][:40]!r}; train the ensemble again.")
    return manifest
