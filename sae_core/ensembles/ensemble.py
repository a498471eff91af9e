"""The ensemble: members, weights and wiring (Gadgil, Lin, Lee, *Ensembling Sparse Autoencoders*, section 3).

parallel: every member encodes the activation (naive bagging, and one SAE as an ensemble of one).
residual: member j encodes what the members before it left (boosting).
A member is an SAE or an ensemble itself: a bag of boosted ensembles, boosting of bags.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from sae_core.ensembles.coder import Coder
from sae_core.ensembles.manifest import read_manifest
from sae_core.foundation.errors import UserError
from sae_core.foundation.files.whole_files import write_json
from sae_core.foundation.folders import CONFIG, WEIGHTS, EnsembleFolder
from sae_core.foundation.method import Wiring
from sae_core.sae import SAE
from sae_core.sae.formats.saelens import load_atoms, load_sae, save_sae
from sae_core.sae.sparse_code import SparseCode

Runner = Callable[[SAE, Tensor, bool], tuple[SparseCode | None, Tensor | None]]
"""Runs one SAE on what it reads [B, D], and gives its code and, if that is wanted, its reconstruction [B, D]."""


def plainly(sae: SAE, input_BD: Tensor, decode: bool) -> tuple[SparseCode, Tensor | None]:
    """A `Runner` that asks the SAE for its sparse code, and decodes it."""
    code = sae.encode_sparse(input_BD)
    return code, sae.decode_sparse(code) if decode else None


def as_a_whole(sae: SAE, input_BD: Tensor, decode: bool) -> tuple[None, Tensor | None]:
    """A `Runner` that gives no code: the reconstruction as the SAE makes it by itself."""
    return None, sae(input_BD) if decode else None


@dataclass(frozen=True, slots=True)
class Step:
    """What one member of an ensemble makes of B activations.

    Attributes:
        number: Number of the member.
        member: The member.
        weight: Its α.
        first: Number of its first feature in the ensemble.
        input_BD: What it reads.
        left_BD: What the member after it reads.
        found: Its own code and reconstruction, as far as they were asked for; α is not folded in.
    """

    number: int
    member: Coder
    weight: float
    first: int
    input_BD: Tensor
    left_BD: Tensor
    found: tuple[SparseCode | None, Tensor | None]

    @property
    def code(self) -> SparseCode:
        """Its own coefficients; entries may be 0."""
        assert self.found[0] is not None
        return self.found[0]

    @property
    def recon_BD(self) -> Tensor:
        """Its own reconstruction."""
        assert self.found[1] is not None
        return self.found[1]

    @property
    def part_BD(self) -> Tensor:
        """What it adds to the reconstruction of the ensemble."""
        return self.weight * self.recon_BD

    def firing(self) -> tuple[Tensor, Tensor]:
        """(tokens, features of the member) of the coefficients ≠ 0."""
        fires_E = self.code.values_E != 0
        return self.code.rows_E[fires_E], self.code.features_E[fires_E]

    def entries(self) -> tuple[Tensor, Tensor, Tensor]:
        """(features of the ensemble, tokens, values with α folded in) of the coefficients ≠ 0; tokens ascend."""
        values_E = self.weight * self.code.values_E
        fires_E = values_E != 0
        return self.code.features_E[fires_E] + self.first, self.code.rows_E[fires_E], values_E[fires_E]


def through(
    coder: Coder, acts_BD: Tensor, run: Runner, *, decode: bool = True
) -> tuple[SparseCode | None, Tensor | None]:
    """The code of an SAE or an ensemble, α folded in, and its reconstruction [B, D], every SAE run by ``run``."""
    if not isinstance(coder, Ensemble):
        return run(cast(SAE, coder), acts_BD, decode)
    steps = list(coder.walk(acts_BD, run, decode=decode))
    code = None if steps[0].found[0] is None else _joined(steps, coder.width)
    return code, sum((step.part_BD for step in steps), start=torch.zeros_like(acts_BD)) if decode else None


def _joined(steps: Sequence[Step], width: int) -> SparseCode:
    features, rows, values = (torch.cat(columns) for columns in zip(*(step.entries() for step in steps), strict=True))
    order = rows.argsort(stable=True)
    return SparseCode(values[order], features[order], rows[order], (steps[0].code.shape[0], width))


class Ensemble(nn.Module):
    """g(a) = Σ_j α_j·g_j(a_j), where a_j is a (parallel) or the residual that the earlier members leave (residual).

    The α_j are folded into the coefficients, so that atoms keep unit norm and `decode(encode(a))` is `forward(a)`
    (Proposition 1): coefficients [α_1·c¹; …; α_J·c^J], dictionary [W¹; …; W^J], bias Σ_j α_j·b_j.

    Feature f of the ensemble is feature f − offsets[j] of the member j with offsets[j] ≤ f < offsets[j + 1].

    Args:
        members: SAEs or ensembles, in order; all for the same dimension D.
        wiring: parallel or residual.
        weights: α_j, one a member; by default 1/J when parallel and 1 when residual.
        method: What the ensemble is called: single, bagged, boosted, expanded or another name.
    """

    def __init__(
        self, members: Sequence[Coder], *, wiring: Wiring, weights: Sequence[float] | None = None, method: str = ""
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
        self.members = nn.ModuleList(cast(Sequence[nn.Module], members))
        self.wiring: Wiring = wiring
        self.method = method or ("single" if len(members) == 1 else "boosted" if wiring == "residual" else "bagged")

    def __len__(self) -> int:
        """The number of members, J."""
        return len(self.members)

    def __iter__(self) -> Iterator[Coder]:
        """The members, in order."""
        return iter(self.members)  # type: ignore[arg-type]

    @property
    def d_in(self) -> int:
        """Dimension of the activations, D."""
        return self[0].d_in

    def __getitem__(self, number: int) -> Coder:
        """Member ``number``."""
        return self.members[number]  # type: ignore[return-value]

    @property
    def in_turn(self) -> bool:
        """Whether each member reads what those before it leave."""
        return self.wiring == "residual"

    @property
    def is_staged(self) -> bool:
        """Whether there are such members: stages after the first."""
        return self.in_turn and len(self) > 1

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def saes(self) -> Iterator[SAE]:
        """All SAEs, also those of members that are ensembles."""
        for member in self:
            yield from saes_of(member)

    @property
    def width(self) -> int:
        """Features of all members, M."""
        return sum(self.widths)

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
        return torch.cat([member.dictionary for member in self])

    @property
    def b_dec(self) -> Tensor:
        """Σ_j α_j·b_j, shape [D]."""
        return torch.stack([weight * member.b_dec for weight, member in zip(self.weights, self, strict=True)]).sum(
            dim=0
        )

    def walk(self, acts_BD: Tensor, run: Runner = plainly, *, decode: bool = True) -> Iterator[Step]:
        """Run one member after the other, each on what it reads. All that is asked of members goes this way.

        A generator, so that at most one member's code needs to exist at a time.

        Args:
            acts_BD: Activations [B, D], where the ensemble is.
            run: Runs an SAE.
            decode: Whether reconstructions are wanted; what the next member needs is decoded in any case.
        """
        input_BD, first = acts_BD, 0
        for number, (weight, member) in enumerate(zip(self.weights, self, strict=True)):
            feeds_next = self.in_turn and number + 1 < len(self)
            found = through(member, input_BD, run, decode=decode or feeds_next)
            left_BD = input_BD if found[1] is None else self.after(input_BD, weight * found[1])
            yield Step(number, member, weight, first, input_BD, left_BD, found)
            input_BD, first = left_BD, first + member.width

    def after(self, input_BD: Tensor, part_BD: Tensor) -> Tensor:
        """What the next member reads where one read ``input_BD`` and adds ``part_BD`` to the reconstruction."""
        return input_BD - part_BD if self.in_turn else input_BD

    def encode(self, acts_BD: Tensor) -> Tensor:
        """All coefficients [B, M], α folded in."""
        return torch.cat([step.weight * step.code.dense() for step in self.walk(acts_BD, decode=False)], dim=1)

    def decode(self, coefs_BM: Tensor) -> Tensor:
        """Reconstruction [B, D] from all coefficients [B, M]."""
        parts = coefs_BM.split(self.widths, dim=1)
        # Member by member: the concatenated dictionary would be a copy of all weights.
        return sum((part @ member.dictionary for part, member in zip(parts, self, strict=True)), start=self.b_dec)

    def encode_sparse(self, acts_BD: Tensor) -> SparseCode:
        """The same coefficients as `encode` gives, as a list of entries."""
        return cast(SparseCode, through(self, acts_BD, plainly, decode=False)[0])

    def decode_sparse(self, code: SparseCode) -> Tensor:
        """Reconstruction [B, D] from a sparse code of all coefficients."""
        return code.weighted_sum(self.dictionary) + self.b_dec

    def forward(self, acts_BD: Tensor) -> Tensor:
        """Reconstruction [B, D] of activations [B, D]."""
        return cast(Tensor, through(self, acts_BD, as_a_whole)[1])

    def first(self, count: int) -> Ensemble:
        """The ensemble of the first ``count`` members (sharing their weights); bagged ones are averaged anew."""
        if not 1 <= count <= len(self):
            raise UserError(f"The ensemble has {len(self)} members; it has no first {count}.")
        total = sum(self.weights[:count])
        scale = 1.0 if self.in_turn else sum(self.weights) / total
        weights = [weight * scale for weight in self.weights[:count]]
        return Ensemble(list(self)[:count], wiring=self.wiring, weights=weights, method=self.method)


def saes_of(coder: Coder) -> Iterator[SAE]:
    """An SAE itself, or all SAEs of an ensemble."""
    return coder.saes() if isinstance(coder, Ensemble) else iter((cast(SAE, coder),))


def files_of(ensemble: Ensemble, folder: EnsembleFolder) -> list[Path]:
    """All files of an ensemble that is saved in a folder."""
    found = [folder.manifest]
    for number, member in enumerate(ensemble):
        inner = folder.inner(number)
        found += (
            files_of(member, inner) if isinstance(member, Ensemble) else [inner.path / CONFIG, inner.path / WEIGHTS]
        )
    return found


def save_ensemble(ensemble: Ensemble, folder: EnsembleFolder) -> None:
    """Write members, SAEs in SAELens' format, then the manifest, so that a folder with a manifest is whole."""
    for number, member in enumerate(ensemble):
        if isinstance(member, Ensemble):
            save_ensemble(member, folder.inner(number))
        else:
            save_sae(cast(SAE, member), folder.member(number))
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
    there = read_manifest(folder)
    members = [load_coder(folder.path / name, device) for name in there.members]
    widths = None if there.given_widths is None else list(there.given_widths)
    if widths is not None and widths != [member.width for member in members]:
        raise UserError(f"{folder.manifest} gives the widths {widths}, not those of its members; train it again.")
    ensemble = Ensemble(members, wiring=there.wiring, weights=there.weights, method=there.method).eval()
    if d_in is not None and ensemble.d_in != d_in:
        raise UserError(
            f"{folder.path} holds an ensemble for activations of dimension {ensemble.d_in}, those of this run have "
            f"{d_in}; delete that folder and run train again."
        )
    return ensemble


def load_coder(path: Path, device: str = "cpu") -> Coder:
    """Read the SAE or the ensemble of a folder, ready for inference.

    Raises:
        UserError: If a file is missing or damaged.
    """
    inner = EnsembleFolder(path)
    return load_ensemble(inner, device) if inner.manifest.exists() else load_sae(path, device=device)


def load_dictionaries(folder: EnsembleFolder, device: str = "cpu") -> list[Tensor]:
    """The atoms [N, D] of each member, without the rest; those of an SAE are mapped into memory on the CPU.

    Raises:
        UserError: If a file is missing or damaged.
    """
    paths = [folder.path / name for name in read_manifest(folder).members]
    return [
        torch.cat(load_dictionaries(inner, device))
        if inner.manifest.exists()
        else load_atoms(inner.path, device=device)
        for inner in map(EnsembleFolder, paths)
    ]
