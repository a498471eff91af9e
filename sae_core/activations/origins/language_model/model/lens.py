"""A model's own path from what its last block returns to its logits, measured, and written as a norm and a matrix.

Every norm in use divides by a length, which an atom alone does not have, takes off the mean or does not, and scales:
so logits of a direction d are U·(w ∘ (d − μ(d))), but for a factor. What a model does on the way (1 + w in the place of
w, a projection, a factor of the logits, a soft cap) is in none of its names: it is run on vectors, and the result is
compared with the logits of the model itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sae_core.activations.origins.language_model.model.blocks import Blocks
from sae_core.activations.origins.language_model.model.nature import Reached
from sae_core.activations.origins.language_model.model.running import (
    copied,
    first_output,
    returning,
    run_model,
    with_hidden,
)

LARGE = 100.0
"""Length of a vector's entries beside which the epsilon of a norm does not count."""
CLOSE = 1e-3
"""Relative error up to which a measured map gives what the model does."""
CHECKS, TOP = 36, 10
"""Random directions on which the lens is compared with the model, and the first tokens of each."""
OVERLAP, CORRELATION = 0.98, 0.999
"""Share of the first tokens and rank correlation over the vocabulary that the comparison must show."""


class NoLens(Exception):
    """Why a model's path to its logits cannot be written as a norm and a matrix."""


@torch.no_grad()
def lens_logits(atoms_ND: Tensor, lens: Mapping[str, Tensor]) -> Tensor:
    """Logits [N, V] of atoms through the model's final norm and unembedding, less their mean over the vocabulary.

    The norm divides by the length of the whole residual stream, which an atom alone does not have, so only its scale
    is applied: scores are comparable within a feature. Taking off the mean changes no probability. Biases, which are
    the same for all atoms, are left out.

    Args:
        atoms_ND: Atoms.
        lens: ``unembed_VD``, ``norm_weight_D`` and ``centred``, as `measure_lens` gives them. Those of earlier runs
            have no ``centred``: their norms take off the mean where there is a ``norm_bias_D``.
    """
    centred = bool(lens["centred"]) if "centred" in lens else "norm_bias_D" in lens
    if centred:
        atoms_ND = atoms_ND - atoms_ND.mean(dim=1, keepdim=True)
    logits_NV = (atoms_ND * lens["norm_weight_D"]) @ lens["unembed_VD"].T
    return logits_NV - logits_NV.mean(dim=1, keepdim=True)


@torch.no_grad()
def measure_lens(model: Any, blocks: Blocks, ids_BL: Tensor) -> dict[str, Tensor]:
    """What `lens_logits` needs, float32 on the CPU.

    Args:
        model: A causal model with a head, cut behind any of its blocks.
        blocks: Its blocks.
        ids_BL: Ids to run it on [1, L].

    Returns:
        ``unembed_VD``; ``norm_weight_D``, scale of the final norm and of the logits; ``norm_bias_D`` where the norm has
        a bias; ``centred``, 1 where it takes off the mean over dimensions, else 0.

    Raises:
        NoLens: If the path is no norm and matrix.
    """
    with _Path(model, blocks, ids_BL) as path:
        lens = _through_norm(path) or _through_matrix(path)
        _scale_to_logits(path, lens)
        _compare(path, lens)
    return {name: tensor.float().cpu().contiguous() for name, tensor in lens.items()}


class _Path:
    """The model's own path from the output of its last block: in float32, without running the blocks.

    Attributes:
        d_model: D.
        unembed_VD: The matrix of its head.
    """

    def __init__(self, model: Any, blocks: Blocks, ids_BL: Tensor) -> None:
        self._model, self._blocks, self._ids_BL = model, blocks, ids_BL
        self.d_model, self._length = blocks.d_model, ids_BL.shape[1]
        self._head = model.get_output_embeddings()
        self._stack = ExitStack()

    def __enter__(self) -> _Path:
        try:
            self._output = self._last_output()
            self._stack.enter_context(self._in_float32())
        except BaseException:
            self._stack.close()
            raise
        matrix = getattr(self._head, "weight", None)
        self.unembed_VD: Tensor = self._head.W_U.T if matrix is None else matrix
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def into_head(self, hidden_ND: Tensor) -> Tensor:
        """What reaches the head [N, D'] if the last block returns these vectors [N, D]."""
        return self._run(hidden_ND, logits=False)

    def logits(self, hidden_ND: Tensor) -> Tensor:
        """The model's logits [N, V] if the last block returns these vectors [N, D]."""
        return self._run(hidden_ND, logits=True)

    def _run(self, hidden_ND: Tensor, *, logits: bool) -> Tensor:
        results = []
        for part_ND in hidden_ND.split(self._length):
            hidden_BLD = torch.zeros(1, self._length, self.d_model, device=hidden_ND.device)
            hidden_BLD[0, : len(part_ND)] = part_ND
            results.append(self._once(hidden_BLD, logits=logits)[0, : len(part_ND)].float())
        return torch.cat(results)

    def _once(self, hidden_BLD: Tensor, *, logits: bool) -> Tensor:
        seen: list[Tensor] = []

        def keep(_module: nn.Module, args: Any) -> None:
            seen.append(args[0].clone())
            if not logits:
                raise Reached

        handle = self._head.register_forward_pre_hook(keep)
        try:
            given = self._pass(hidden_BLD)
        except Reached:
            pass
        finally:
            handle.remove()
        if not seen:
            raise NoLens("its head is not what its logits come from")
        return given.logits if logits else seen[0]

    def _pass(self, hidden_BLD: Tensor) -> Any:
        output = with_hidden(self._output, hidden_BLD)
        with ExitStack() as stack:
            for block in self._blocks:
                stack.enter_context(returning(block.module, output))
            return run_model(self._model, self._ids_BL, device=str(self._ids_BL.device))

    def _last_output(self) -> Any:
        """What the last block returns on the ids."""
        seen: list[Any] = []
        handles = self._blocks.on_output(len(self._blocks) - 1, lambda _m, _args, out: seen.append(copied(out)))
        try:
            run_model(self._model, self._ids_BL, device=str(self._ids_BL.device))
        except Exception as error:
            raise NoLens(f"it cannot be run behind its last block ({error})") from None
        finally:
            for handle in handles:
                handle.remove()
        return seen[-1]

    @contextmanager
    def _in_float32(self) -> Iterator[None]:
        """Hold the weights in float32 of whatever runs while the blocks do not; tied ones stay tied."""
        called: dict[nn.Module, None] = {}
        handles = [
            module.register_forward_pre_hook(lambda module, _args: called.setdefault(module))
            for module in self._model.modules()
        ]
        try:
            self._pass(first_output(self._output))
        finally:
            for handle in handles:
                handle.remove()
        before = {
            parameter: parameter.dtype
            for module in [*called, self._head]
            for parameter in module.parameters(recurse=False)
            if parameter.is_floating_point()
        }
        try:
            for parameter in before:
                parameter.data = parameter.data.float()
            yield
        finally:
            for parameter, dtype in before.items():
                parameter.data = parameter.data.to(dtype)


def _through_norm(path: _Path) -> dict[str, Tensor] | None:
    """The path as a norm that scales every dimension by itself; None if it is none."""
    d, device = path.d_model, path.unembed_VD.device
    if path.unembed_VD.shape[1] != d:
        return None
    probe_D = torch.ones(d, device=device)  # mean 0 and no entry near 0
    probe_D[1::2] = -1
    probe_D -= probe_D.mean()
    zero_D, one_D, double_D, shifted_D = path.into_head(
        LARGE * torch.stack([0 * probe_D, probe_D, 2 * probe_D, probe_D + 0.5])
    )
    length = probe_D.square().mean().sqrt() if _same(one_D, double_D) else 1 / LARGE
    weight_D = (one_D - zero_D) * length / probe_D
    lens = {"unembed_VD": path.unembed_VD, "norm_weight_D": weight_D}
    lens["centred"] = torch.tensor(int(_same(one_D, shifted_D)))
    if not _gives(path, zero_D, lambda atoms_ND: _normed(atoms_ND, lens)):
        return None
    if zero_D.any():
        lens["norm_bias_D"] = zero_D
    return lens


def _through_matrix(path: _Path) -> dict[str, Tensor]:
    """The path as any linear map of a direction, the norm's included: found from what it does to each dimension."""
    d, device = path.d_model, path.unembed_VD.device
    zero_D = path.into_head(torch.zeros(1, d, device=device))[0]
    columns_DE = path.into_head(LARGE * torch.eye(d, device=device)) - zero_D
    scale_free = _same(path.into_head(2 * LARGE * torch.eye(d, device=device)[:1])[0], columns_DE[0] + zero_D)
    columns_DE = columns_DE / (d**0.5 if scale_free else LARGE)
    if not _gives(path, zero_D, lambda atoms_ND: atoms_ND @ columns_DE):
        raise NoLens("what lies between its last block and its head is no norm and matrix")
    weight_D = torch.ones(d, device=device)
    return {
        "unembed_VD": path.unembed_VD @ columns_DE.T,
        "norm_weight_D": weight_D,
        "centred": torch.tensor(0),
    }


def _normed(atoms_ND: Tensor, lens: Mapping[str, Tensor]) -> Tensor:
    if bool(lens["centred"]):
        atoms_ND = atoms_ND - atoms_ND.mean(dim=1, keepdim=True)
    return atoms_ND * lens["norm_weight_D"]


def _directions(path: _Path) -> Tensor:
    """Random directions [N, D], the entries of each shifted by an offset of its own."""
    generator = torch.Generator().manual_seed(0)
    directions_ND = torch.randn(CHECKS, path.d_model, generator=generator)
    directions_ND += torch.randn(CHECKS, 1, generator=generator)
    return directions_ND.to(path.unembed_VD.device)


def _gives(path: _Path, zero_D: Tensor, linear: Any) -> bool:
    """Whether the path gives, but for a positive factor and what it gives for 0, a linear map of random directions."""
    directions_ND = _directions(path)
    found_ND, expected_ND = path.into_head(LARGE * directions_ND) - zero_D, linear(directions_ND)
    scale_N = (found_ND * expected_ND).sum(1) / expected_ND.square().sum(1)
    error_N = (found_ND - scale_N[:, None] * expected_ND).norm(dim=1)
    return bool((scale_N > 0).all() and (error_N <= CLOSE * found_ND.norm(dim=1)).all())


def _same(a_D: Tensor, b_D: Tensor) -> bool:
    return bool((a_D - b_D).norm() <= CLOSE * a_D.norm())


def _scale_to_logits(path: _Path, lens: dict[str, Tensor]) -> None:
    """Put the factor between the matrix's product and the logits into the scale: where a soft cap begins, its slope."""
    directions_ND = LARGE * torch.cat([torch.zeros_like(_directions(path)[:1]), _directions(path)])
    inner_ND, logits_NV = path.into_head(directions_ND), path.logits(directions_ND)
    if logits_NV.shape[1] != len(path.unembed_VD):
        raise NoLens("its head has another vocabulary than its logits")
    products_NV = (inner_ND[1:] - inner_ND[0]) @ path.unembed_VD.T
    differences_NV = logits_NV[1:] - logits_NV[0]
    size_NV = products_NV.abs()
    small_NV = (size_NV <= size_NV.flatten()[:100_000].quantile(0.1)) & (size_NV > 0)
    slope = (differences_NV[small_NV] * products_NV[small_NV]).sum() / products_NV[small_NV].square().sum()
    if not slope > 0:
        raise NoLens("its logits do not grow with the products of its head")
    lens["norm_weight_D"] = lens["norm_weight_D"] * slope


def _compare(path: _Path, lens: Mapping[str, Tensor]) -> None:
    """Compare the lens with the model on random directions.

    Raises:
        NoLens: If it ranks tokens otherwise.
    """
    directions_ND = _directions(path)
    own_NV = path.logits(LARGE * directions_ND) - path.logits(torch.zeros_like(directions_ND[:1]))
    ours_NV = lens_logits(directions_ND, lens)
    top = min(TOP, own_NV.shape[1])
    both = [ranked.topk(top, dim=1).indices for ranked in (own_NV, ours_NV)]
    shared = (both[0][:, :, None] == both[1][:, None, :]).any(dim=2).float().mean()
    ranks = [ranked.argsort(dim=1).argsort(dim=1).double() for ranked in (own_NV, ours_NV)]
    correlation = torch.stack([torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(*ranks, strict=True)]).min()
    if not (shared >= OVERLAP and correlation >= CORRELATION):
        raise NoLens(
            f"its logits rank tokens otherwise than a norm and matrix do (of the first {top}, {top * shared:.1f} are "
            f"the same; rank correlation {correlation:.3f})"
        )
