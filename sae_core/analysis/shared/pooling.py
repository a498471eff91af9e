"""Mean-pool the features of texts for several ensembles in one pass; make random dictionaries as a baseline."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from sae_core.analysis.shared.ensemble_codes import BLOCK, Encoders
from sae_core.ensembles.ensemble import Ensemble, Step
from sae_core.foundation.progress import Progress, Tick, silent
from sae_core.sae import SAE


class Batch(Protocol):
    """Activations of some texts: ``acts_TD`` [T, D], and ``document_T`` [T], the number of each activation's text."""

    @property
    def acts_TD(self) -> Tensor:
        """Activations [T, D]."""

    @property
    def document_T(self) -> Tensor:
        """Number of the text [T]."""


@dataclass(frozen=True, slots=True)
class Pooled:
    """Means over the tokens of each text.

    Attributes:
        codes: The mean coefficients of each ensemble, α folded in, sparse [texts, M].
        raw: The mean activations [texts, D].
        tokens: Number of tokens of each text [texts]; a text without tokens has means of 0.
    """

    codes: dict[str, sparse.csr_array]
    raw: NDArray[np.float32]
    tokens: NDArray[np.int64]


@torch.no_grad()
def pool(
    ensembles: Mapping[str, Ensemble],
    batches: Iterable[Batch],
    texts: int,
    *,
    device: str = "cpu",
    progress: Progress = silent,
) -> Pooled:
    """Encode every token once with every ensemble and average each text's codes.

    Args:
        ensembles: Ensembles by name, on ``device``.
        batches: Activations; a text may lie in several batches.
        texts: Number of texts.
        device: The device to encode on.
        progress: Told the number of texts done, after every block.
    """
    encoders = Encoders(ensembles)
    counts_T = torch.zeros(texts, dtype=torch.int64)
    raw_TD: Tensor | None = None
    found: dict[str, list[sparse.coo_array]] = {name: [] for name in ensembles}
    for batch in batches:
        if raw_TD is None:
            raw_TD = torch.zeros(texts, batch.acts_TD.shape[1], dtype=torch.float64)
        raw_TD.index_add_(0, batch.document_T, batch.acts_TD.double())
        counts_T += torch.bincount(batch.document_T, minlength=texts)
        for acts_BD, document_B in zip(batch.acts_TD.split(BLOCK), batch.document_T.split(BLOCK), strict=True):
            for name, codes in encoders.codes(acts_BD.to(device), decode=False):
                found[name].append(_sums_by_text(ensembles[name], codes, document_B.numpy(), texts))
            progress(Tick("pool features of texts", int(document_B.max()) + 1, texts, unit="texts"))
    per_text_T = np.maximum(counts_T.numpy(), 1)
    if raw_TD is None:
        raw_TD = torch.zeros(texts, next(iter(ensembles.values())).d_in, dtype=torch.float64)
    return Pooled(
        codes={
            name: _means(found.pop(name), per_text_T, (texts, ensemble.offsets[-1]))
            for name, ensemble in ensembles.items()
        },
        raw=(raw_TD.numpy() / per_text_T[:, None]).astype(np.float32),
        tokens=counts_T.numpy(),
    )


def _sums_by_text(
    ensemble: Ensemble, codes: Iterable[Step], document_B: NDArray[np.int64], texts: int
) -> sparse.coo_array:
    """Sum a block's coefficients over each text's tokens; summing block by block takes little memory."""
    rows, columns, values = [], [], []
    for step in codes:
        code = step.code
        rows.append(document_B[code.rows_E.cpu().numpy()])
        columns.append((code.features_E + step.first).cpu().numpy())
        values.append(step.weight * code.values_E.double().cpu().numpy())
    first = int(document_B.min())
    places = (np.concatenate(rows) - first, np.concatenate(columns))
    shape = (int(document_B.max()) - first + 1, ensemble.offsets[-1])
    sums = sparse.csr_array((np.concatenate(values), places), shape=shape).tocoo()
    return sparse.coo_array((sums.data, (sums.coords[0] + first, sums.coords[1])), shape=(texts, shape[1]))


def _means(
    found: Sequence[sparse.coo_array], per_text_T: NDArray[np.int64], shape: tuple[int, int]
) -> sparse.csr_array:
    """Turn sums into means. A text in two blocks is summed here, since CSR adds entries with the same place."""
    if not found:
        return sparse.csr_array(shape, dtype=np.float32)
    rows = np.concatenate([part.coords[0] for part in found])
    columns = np.concatenate([part.coords[1] for part in found])
    values = np.concatenate([part.data for part in found]) / per_text_T[rows]
    return sparse.csr_array((values, (rows, columns)), shape=shape).astype(np.float32)


@torch.no_grad()
def random_dictionary(like: SAE, acts_BD: Tensor, *, seed: int = 0, read_BD: Tensor | None = None) -> SAE:
    """A random unit dictionary that encodes as ``like`` does: the baseline for what training buys.

    Same architecture and width; W_dec has random unit rows, W_enc is its transpose, b_dec is the activations' mean and
    b_enc is 0. TopK keeps its k. The others get one threshold for all features, or one bias (`SAE.match_activity`), so
    that on ``acts_BD`` as many coefficients are ≠ 0 as ``like`` has on ``read_BD``.

    Args:
        like: The SAE to imitate, as a rule the single one.
        acts_BD: Some activations.
        seed: Seed of the atoms.
        read_BD: As many activations, of the kind that ``like`` reads; ``acts_BD`` if not given.
    """
    twin = copy.deepcopy(like).eval()
    fresh = SAE(like.d_in, like.width, seed=seed)
    twin.W_dec.copy_(fresh.W_dec)
    twin.W_enc.copy_(fresh.W_enc)
    twin.b_enc.zero_()
    twin.b_dec.copy_(acts_BD.double().mean(dim=0))
    active = int((like.encode(acts_BD if read_BD is None else read_BD) != 0).sum())
    twin.match_activity(acts_BD, min(active, acts_BD.shape[0] * like.width - 1))
    return twin
