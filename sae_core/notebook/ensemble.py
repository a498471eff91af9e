"""An ensemble in a caller's hands: it encodes arrays, saves itself to a folder and shows itself in a notebook."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pandas as pd
import torch
from torch import Tensor

from sae_core.ensembles import ensemble as ensembles
from sae_core.ensembles.ensemble import load_ensemble, save_ensemble
from sae_core.foundation.errors import UserError
from sae_core.foundation.files.whole_files import read_table, write_table
from sae_core.foundation.files.whole_folders import place_of, require_new, whole_folder
from sae_core.foundation.folders import EnsembleFolder
from sae_core.foundation.machine.device import resolve_device
from sae_core.notebook.given import Rows, as_float32, as_rows, checked
from sae_core.notebook.look import ensemble_html
from sae_core.sae.formats.declaration import read_checkpoint
from sae_core.sae.sparse_code import SparseCode

BLOCK_CELLS = 2**25
"""Activations times features that are encoded at a time."""


class Ensemble(ensembles.Ensemble):
    """An ensemble that takes arrays and tensors; otherwise the same as `sae_core.ensembles.ensemble.Ensemble`.

    Attributes:
        curves: Training curves, one row per member and recorded step; None if they are unknown.
    """

    curves: pd.DataFrame | None = None

    @classmethod
    def of(cls, ensemble: ensembles.Ensemble, curves: pd.DataFrame | None = None) -> Self:
        """The same ensemble, with the same weights in memory."""
        made = cls(list(ensemble), wiring=ensemble.wiring, weights=ensemble.weights, method=ensemble.method)
        made.curves = curves
        return made.eval()

    @torch.no_grad()
    def encode(self, acts: Rows) -> Tensor:
        """Encode activations densely.

        Args:
            acts: Activations [B, D]: an array, a memory map or a tensor.

        Returns:
            The coefficients of all members [B, M] in float32, on the ensemble's device. Most are 0;
            `encode_sparse` gives the others alone, for more rows than fit into memory like this.

        Raises:
            UserError: If the activations are not a table of finite numbers with D columns.
        """
        return torch.cat([super(Ensemble, self).encode(block_BD) for block_BD in self._given(acts)])

    @torch.no_grad()
    def encode_sparse(self, acts: Rows) -> SparseCode:
        """Encode activations as a list of the coefficients that are not 0; arguments and errors as `encode`."""
        return SparseCode.joined(super(Ensemble, self).encode_sparse(block_BD) for block_BD in self._given(acts))

    @torch.no_grad()
    def reconstruct(self, acts: Rows) -> Tensor:
        """Reconstruct activations [B, D]; arguments and errors as `encode`."""
        return torch.cat([self(block_BD) for block_BD in self._given(acts)])

    def _given(self, acts: Rows) -> Iterator[Tensor]:
        """Activations on the ensemble's device, checked, some rows at a time."""
        rows, step = as_rows(acts), max(1, BLOCK_CELLS // self.width)
        if rows.shape[1] != self.d_in:
            raise UserError(
                f"acts has {rows.shape[1]} columns, but the ensemble is for activations of dimension {self.d_in}."
            )
        for start in range(0, max(1, len(rows)), step):
            yield checked(as_float32(rows[start : start + step]), "acts", first=start).to(self.device)

    def first(self, count: int) -> Ensemble:
        """The ensemble of the first members, as `sae_core.ensembles.ensemble.Ensemble.first`."""
        return self.of(super().first(count))

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Write the ensemble to a folder, each SAE in SAELens' format; `load` reads it.

        Args:
            path: The folder.
            overwrite: Whether an ensemble that is already there is replaced.

        Returns:
            The folder.

        Raises:
            UserError: If the folder holds something else, or an ensemble that is not to be replaced.
        """
        folder = Path(path)
        place = place_of(folder)
        if not EnsembleFolder(place).manifest.exists():
            require_new(folder)
        elif not overwrite:
            raise UserError(f"{folder} holds an ensemble; choose another folder, or give overwrite=True.")
        with whole_folder(place) as beside:
            save_ensemble(self, EnsembleFolder(beside))
            if self.curves is not None:
                write_table(EnsembleFolder(beside).curves, self.curves)
        return folder

    def _repr_html_(self) -> str:
        return ensemble_html(self, self.curves)


def load(path: str | os.PathLike[str], *, device: str = "auto") -> Ensemble:
    """Read an ensemble that `Ensemble.save` or a run wrote, or an SAE of any known tool as an ensemble of one.

    The format of an SAE is recognised: SAELens, dictionary_learning, sparsify, Gemma Scope, Llama Scope. If it differs
    from the SAE as that tool runs it, a warning says how.

    Args:
        path: Folder of an ensemble; folder or file of an SAE.
        device: auto, cpu, cuda or cuda:N.

    Raises:
        UserError: If there is none, or a file is missing, damaged or cannot be followed.
    """
    folder, place = EnsembleFolder(Path(path)), resolve_device(device)
    if folder.manifest.exists():
        curves = read_table(folder.curves) if folder.curves.exists() else None
        return Ensemble.of(load_ensemble(folder, place), curves)
    found = read_checkpoint(folder.path)
    for remark in found.remarks:
        warnings.warn(remark, stacklevel=2)
    return Ensemble([found.sae.to(place)], wiring="parallel").eval()
