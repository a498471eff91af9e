"""The trainers and sizes in the benchmarks of the training step: ours, plain and fast, and three libraries.

Everything heavy is imported where it is used, as the peers' interpreter lacks our package and ours lacks the peers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

SIZES = {"cpu": ((2048, 512, 8192, 32), (2048, 768, 16384, 64)), "cuda": ((8192, 768, 16128, 128),)}
"""(activations, dimension, features, active features)."""

Step = Callable[[Any], Any]


@dataclass(frozen=True)
class Contender:
    """Something that trains SAEs.

    Attributes:
        name: Its name in the table and for `STEPS`.
        members: How many SAEs it trains at a time.
        peer: Whether it needs the peers' interpreter.
    """

    name: str
    members: int = 1
    peer: bool = False


@dataclass(frozen=True)
class Case:
    """What is trained where."""

    device: str
    batch: int
    d_in: int
    width: int
    k: int

    @property
    def on_gpu(self) -> bool:
        """Whether the device is a GPU."""
        return self.device != "cpu"

    def small(self) -> Case:
        """The same with few features."""
        return replace(self, width=64, k=4)


CONTENDERS = (
    *(Contender(kernels, members) for members in (1, 4, 8) for kernels in ("fast", "plain")),
    *(Contender(name, peer=True) for name in ("sparsify", "dictionary_learning", "sae_lens")),
)


def ours(case: Case, members: int, *, kernels: str) -> Step:
    """The members' steps on one batch, as `train_stage` does them."""
    import torch

    from sae_core.foundation.settings.run_settings import RunSettings
    from sae_core.training.members import make_trainer
    from sae_core.training.stage import Plan

    sae = {"width": case.width, "k": case.k}
    settings = RunSettings.model_validate({"sae": sae, "training": {"kernels": kernels}})
    plan = Plan("bagged", 10_000, case.batch, 1, 0, torch.device(case.device))
    b_dec_D = torch.zeros(case.d_in)
    trainers = [make_trainer(settings, b_dec_D, plan, member=j, width=case.width) for j in range(members)]
    return lambda x_BD: [trainer.step(x_BD) for trainer in trainers]


def dictionary_learning(case: Case, _: int) -> Step:
    """`TopKTrainer.update`; not its first one, which also takes a median."""
    from dictionary_learning.trainers.top_k import TopKTrainer

    size = (10_000, case.d_in, case.width, case.k)
    trainer = TopKTrainer(*size, layer=0, lm_name="none", device=case.device, seed=0)
    return lambda x_BD: trainer.update(1, x_BD)


def sae_lens(case: Case, _: int) -> Step:
    """`SAETrainer.step`; with sparse activations it does not run on a CPU."""
    from sae_lens.config import SAETrainerConfig
    from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.training.sae_trainer import SAETrainer

    config = TopKTrainingSAEConfig(d_in=case.d_in, d_sae=case.width, k=case.k, device=case.device)
    schedule = SAETrainerConfig(
        total_training_samples=10_000 * case.batch,
        train_batch_size_samples=case.batch,
        lr_end=3e-5,
        device=case.device,
        autocast=case.on_gpu,
    )
    return SAETrainer(schedule, TopKTrainingSAE(config), data_provider=iter(())).step


def sparsify(case: Case, _: int) -> Step:
    """What the `Trainer` of sparsify does with the activations of one hook, with its option adam."""
    import torch
    from sparsify import SparseCoder, SparseCoderConfig

    coder = SparseCoder(case.d_in, SparseCoderConfig(num_latents=case.width, k=case.k), device=case.device)
    adam = torch.optim.Adam(coder.parameters(), lr=1e-3)
    idle_N = torch.zeros(case.width, dtype=torch.long, device=case.device)

    def step(x_BD: torch.Tensor) -> None:
        coder.set_decoder_norm_to_unit_norm()
        total_variance = (x_BD - x_BD.mean(0)).pow(2).sum()
        out = coder(x=x_BD, y=x_BD, dead_mask=None, total_variance=total_variance)
        fired_N = torch.zeros(case.width, dtype=torch.bool, device=case.device)
        fired_N[out.latent_indices.flatten()] = True
        float(out.fvu.detach())
        (out.fvu + out.multi_topk_fvu / 8).backward()
        coder.remove_gradient_parallel_to_decoder_directions()
        adam.step()
        adam.zero_grad()
        idle_N.add_(len(x_BD))
        idle_N[fired_N] = 0

    return step


def in_bfloat16(make: Callable[[Case, int], Step]) -> Callable[[Case, int], Step]:
    """A peer's step under autocast where it runs on a GPU, as its own training loop does."""

    def made(case: Case, members: int) -> Step:
        import torch

        step = make(case, members)

        def cast(x_BD: torch.Tensor) -> None:
            with torch.autocast("cuda", torch.bfloat16):
                step(x_BD)

        return cast if case.on_gpu else step

    return made


STEPS: dict[str, Callable[[Case, int], Step]] = {
    "fast": lambda case, members: ours(case, members, kernels="fast"),
    "plain": lambda case, members: ours(case, members, kernels="plain"),
    "sparsify": in_bfloat16(sparsify),
    "dictionary_learning": in_bfloat16(dictionary_learning),
    "sae_lens": sae_lens,
}


def random_tables(case: Case, shapes: list[tuple[int, int]]) -> list[Any]:
    """Normal numbers, the same wherever they are drawn."""
    import torch

    generator = torch.Generator().manual_seed(0)
    return [torch.randn(*shape, generator=generator).to(case.device) for shape in shapes]
