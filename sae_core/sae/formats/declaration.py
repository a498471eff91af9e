"""The declaration of a checkpoint format: how it is recognised, how it is read, what it says of the activations.

A file of this folder that holds a subclass of `Format` is a format as soon as it lies there.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from sae_core.foundation.errors import UserError
from sae_core.foundation.rooms import classes_in
from sae_core.foundation.settings.run_settings import Site
from sae_core.sae import ARCHITECTURES, SAE


@dataclass(frozen=True, slots=True)
class Place:
    """Which activations an SAE was trained on, as far as its checkpoint says.

    Attributes:
        model: The model, by the name that the checkpoint gives.
        layer: The block whose output, or whose part's output, is read.
        site: What of that block is read.
        hook: The name that the checkpoint has for the place.
    """

    model: str | None = None
    layer: int | None = None
    site: Site | None = None
    hook: str | None = None


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """An SAE that another tool wrote.

    Attributes:
        sae: The SAE, ready for inference.
        kind: What it is to that tool: ``dictionary_learning BatchTopKSAE``.
        files: The files that were read.
        place: Which activations it was trained on.
        remarks: What differs from the SAE as that tool runs it, in sentences.
    """

    sae: SAE
    kind: str
    files: tuple[Path, ...]
    place: Place = field(default_factory=Place)
    remarks: tuple[str, ...] = ()


class Format(ABC):
    """A format of checkpoints. A subclass is the declaration.

    Attributes:
        title: The tool that writes it.
        files: Files that a folder must hold to be of this format, the telling one first.
    """

    title: ClassVar[str]
    files: ClassVar[tuple[str, ...]]

    def folder_of(self, path: Path) -> Path | None:
        """The folder of the checkpoint at a path, which is the folder itself or one of its files; else None."""
        if path.is_file():
            relative = next((Path(name) for name in self.files if Path(name).name == path.name), None)
            path = path.parents[len(relative.parts) - 1] if relative else path
        return path if all((path / name).is_file() for name in self.files) else None

    @abstractmethod
    def read(self, folder: Path) -> Checkpoint:
        """Read the checkpoint in a folder.

        Raises:
            UserError: One sentence that names the file and the field, if it is damaged or cannot be followed.
        """


def formats() -> list[Format]:
    """The formats that there are, found from the files of this folder."""
    found: set[Any] = set(classes_in(__name__.rpartition(".")[0], Format))  # type: ignore[type-abstract]
    return [each() for each in sorted(found, key=lambda each: each.title)]


def read_checkpoint(path: Path) -> Checkpoint:
    """Read an SAE that any known tool wrote, from its folder or one of its files.

    Raises:
        UserError: If its format is not known, or the checkpoint is damaged or cannot be followed.
    """
    known = formats()
    found = [(each, folder) for each in known if (folder := each.folder_of(path)) is not None]
    if len(found) > 1:
        titles = " and ".join(each.title for each, _ in found)
        raise UserError(f"{path} may be of {titles}, whose files lie side by side; give a folder with one of them.")
    if not found:
        raise UserError(_unknown(path, known))
    return found[0][0].read(found[0][1])


def _unknown(path: Path, known: list[Format]) -> str:
    if not path.exists():
        return f"{path} does not exist; give a folder or a file of an SAE, or its id on the hub."
    folder = path if path.is_dir() else path.parent
    for each in known:
        lacking = [name for name in each.files if not (folder / name).is_file()]
        if len(lacking) < len(each.files) and lacking[0] != each.files[0]:
            return f"{folder / each.files[0]} seems to be of {each.title}, but there is no {lacking[0]} beside it."
    inside = sorted({str(here) for each in known for here in _below(folder, each)})
    if inside and path.is_dir():
        more = f", and {len(inside) - 3} more" if len(inside) > 3 else ""
        return f"{path} is no SAE, but holds some ({', '.join(inside[:3])}{more}); give one or several of those."
    forms = "; ".join(f"{each.title}: {', '.join(each.files)}" for each in known)
    return f"{path} holds no SAE of a known format ({forms})."


def _below(folder: Path, form: Format) -> list[Path]:
    """Checkpoints some levels below a folder."""
    telling = Path(form.files[0])
    found = [path for depth in range(1, 4) for path in folder.glob("*/" * depth + telling.as_posix())]
    return [path.parents[len(telling.parts) - 1].relative_to(folder) for path in found]


_BLOCK = r"(?:blocks|layers|h|layer|block|encoder\.layer)[._](\d+)"
_SITES: tuple[tuple[str, Site], ...] = (
    (r"(?:hook_resid_post|resid_post|output)?", "residual"),
    (r"(?:hook_mlp_out|mlp_out|mlp|mlp\.output)", "mlp"),
    (r"(?:hook_attn_out|attn_out|attention_out|self_attn|attn|attention|self_attn\.output)", "attention"),
)


def place_of(hook: str, model: str | None = None) -> Place:
    """The place that a hook of TransformerLens or a module of transformers names; no layer and site for any other.

    What enters a block is what the block before it leaves.
    """
    for pattern, site in _SITES:
        if found := re.fullmatch(rf"(?:[\w.]*\.)?{_BLOCK}[._]?{pattern}", hook):
            return Place(model, int(found[1]), site, hook)
    if (found := re.fullmatch(r"blocks\.(\d+)\.hook_resid_pre", hook)) and int(found[1]) > 0:
        return Place(model, int(found[1]) - 1, "residual", hook)
    return Place(model, hook=hook)


@torch.no_grad()
def assembled(kind: type[SAE] | str, tensors: Mapping[str, Tensor], *, subtracts_b_dec: bool, **options: Any) -> SAE:
    """An SAE of this package from the weights of another tool's, with the same coefficients and reconstruction.

    Args:
        kind: The architecture that it is here, or its class.
        tensors: ``W_enc`` [D, N], ``b_enc`` [N], ``W_dec`` [N, D], ``b_dec`` [D], and ``threshold`` where it has one.
        subtracts_b_dec: Whether b_dec is subtracted before encoding. Here it always is; else the encoder's bias takes
            that back.
        options: What the class takes beside its sizes.
    """
    found = dict(tensors)
    if not subtracts_b_dec:
        # In double precision, as the two large terms cancel again; part by part, as a copy of all may not fit.
        parts = [found["b_dec"].double() @ part.double() for part in found["W_enc"].split(4096, dim=1)]
        found["b_enc"] = (found["b_enc"].double() + torch.cat(parts)).float()
    width, d_in = found["W_dec"].shape
    sae = (ARCHITECTURES[kind] if isinstance(kind, str) else kind)(d_in, width, **options)
    sae.to(found["W_dec"].device).load_state_dict(found)
    return sae.eval()


def gated(W_enc_DN: Tensor, b_gate_N: Tensor, b_mag_N: Tensor, r_mag_N: Tensor) -> dict[str, Tensor]:
    """The encoder of a gated SAE with tied weights as that of a JumpReLU SAE, which is the same function.

    With z = x·W, the gate is z + b_gate > 0 and the magnitude e^r·z + b_mag. So a coefficient is the magnitude where
    that exceeds b_mag − e^r·b_gate and 0 (Rajamanoharan et al. 2024, 2404.16014, appendix).
    """
    scale_N = r_mag_N.exp()
    threshold_N = (b_mag_N - scale_N * b_gate_N).clamp_min(0.0)
    return {"W_enc": W_enc_DN * scale_N, "b_enc": b_mag_N, "threshold": threshold_N}
