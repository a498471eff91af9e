"""Measures in some seconds how long units of work take here: with the real model, training step, cache and index."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from sae_core.activations.origins.language_model.model.shapes import ModelShape
from sae_core.activations.store.cache import ActivationCache, CacheWriter
from sae_core.analysis.index.activation_index import build_index
from sae_core.analysis.similarity.cosines import one_to_one
from sae_core.ensembles.ensemble import Ensemble
from sae_core.foundation.machine.host_memory import free_host_memory
from sae_core.foundation.progress import Progress, Tick, silent
from sae_core.foundation.settings.architectures import fixes_l0
from sae_core.foundation.settings.run_settings import RunSettings, SAESettings
from sae_core.runs.planning.machines import existing_parent, resident_memory
from sae_core.runs.planning.model_speed import measure_text
from sae_core.runs.planning.pace import mean_pace, measure_pace, seconds_to_compile
from sae_core.runs.planning.rates import ASSIGN_POWER, Group, Rates, needed_steps
from sae_core.sae import SAE, make_sae
from sae_core.training.kernels import use_fast
from sae_core.training.kernels.frozen import FrozenEncoder
from sae_core.training.members import make_trainer
from sae_core.training.operations import SAEShape
from sae_core.training.residuals import BLOCK_ROWS
from sae_core.training.stage import Plan, Target, train_stage

SECONDS = 20.0
"""What all measurements take at most, about; imports and compiling come on top."""
_LEAST = 0.05
"""Share of it that a measurement may take, however little time is left."""
_STEPS = 0.65
"""Share of the time left after text, model and disk that training steps are measured for; the rest is for the codes."""
_ROWS_BYTES = 32 * 2**20
_BLOCK = 2048
_NARROWEST = 256
_BUSY = 0.5
"""Load per core from which a machine counts as busy."""
_MEMORY_SHARE = 0.5
"""Share of the free memory that a measurement may take."""


def calibrate(
    settings: RunSettings,
    shape: ModelShape,
    *,
    device: str,
    folder: Path,
    seconds: float = SECONDS,
    processes: int = 1,
    progress: Progress = silent,
) -> Rates:
    """Measure this machine on what the settings ask for.

    Whatever would not fit into the time or the memory is measured on fewer features and extended: the time of a step is
    a line in their number. Files are written to a temporary folder beside the run and removed.

    Args:
        settings: The settings.
        shape: The model's shape.
        device: Where it would be trained.
        folder: The run folder; it need not be there.
        seconds: What the measurements may take, about.
        processes: Those that will train together, each on a machine like this one.
        progress: Told the seconds spent.

    Raises:
        UserError: If the text cannot be read, or kernels are asked for that do not work here.
        OSError: If nothing can be written beside the run.
    """
    with tempfile.TemporaryDirectory(prefix=".plan-", dir=existing_parent(folder.parent)) as temporary:
        return _Calibration(settings, shape, device, Path(temporary), seconds, processes, progress).rates()


class _Calibration:
    """One calibration; `batch` and `remarks` are what its measurements share."""

    def __init__(
        self,
        settings: RunSettings,
        shape: ModelShape,
        device: str,
        folder: Path,
        seconds: float,
        processes: int,
        progress: Progress,
    ) -> None:
        self.settings, self.shape, self.device, self.folder = settings, shape, torch.device(device), folder
        self._seconds, self._progress, self._began = seconds, progress, time.perf_counter()
        self._processes = processes
        self.batch = min(settings.training.batch_size, settings.data.train_tokens)
        self.remarks = _busy()

    def _tell(self, what: str) -> None:
        spent = min(self._seconds - self._left(), self._seconds)
        self._progress(Tick(f"measure {what}", spent, self._seconds, "seconds"))

    def _left(self) -> float:
        return self._seconds - (time.perf_counter() - self._began)

    def rates(self) -> Rates:
        self._tell("text and model")
        text = measure_text(self.settings, self.shape, device=str(self.device), seconds=0.12 * self._seconds)
        self.remarks += text.remarks
        to_compile, pace = seconds_to_compile(), [measure_pace()]
        self._tell("the disk")
        cache, store = self._store(text.acts_TD)
        flop = self._flop()
        narrow = self._with_width(max(_NARROWEST, 2 * self.settings.sae.k))
        zero_D, width = torch.zeros(self.shape.d_model), narrow.sae.width
        trainer = make_trainer(narrow, zero_D, self._plan(1, self.batch), member=None, width=width)
        fast = use_fast(self.settings.training.kernels, trainer.sae)
        if fast:  # compiles
            trainer.step(torch.randn(_BLOCK, self.shape.d_model))
        libraries = text.libraries or resident_memory()
        groups, steps = needed_steps(self.settings, self._processes), {}
        seconds = max(_LEAST * self._seconds, _STEPS * self._left() / len(groups))
        for group in groups:
            self._tell(f"training, {group.members} × {group.width:,} features")
            steps[group] = self._step(group, cache, flop, seconds)
            pace.append(measure_pace())
        widths = sorted({group.width for group in groups} | {self.settings.sae.width})
        self._tell("encoding and indexing")
        runs, index = {}, {}
        for number, width in enumerate(widths):
            seconds = max(_LEAST * self._seconds, self._left() / (len(widths) - number)) / 4
            runs[width] = self._at_width(width, flop, _BLOCK, self._run(cache, seconds), seconds=seconds)
            index[width] = self._at_width(width, flop, 2 * _BLOCK, self._index(cache, seconds), seconds=seconds)
        return Rates(
            step=steps,
            run=runs,
            index=index,
            forward=text.forward,
            store=store,
            gather_start=text.start,
            gather=text.per_char,
            flop=flop,
            assign=self._assign(),
            chars_per_token=text.chars_per_token,
            tokens_per_text=text.tokens_per_text,
            libraries=libraries,
            pace=mean_pace(pace),
            compile=to_compile,
            fast=fast,
            low_precision=trainer.low_precision,
            measured=True,
            remarks=self.remarks,
        )

    def _store(self, acts_TD: Tensor | None) -> tuple[ActivationCache, float]:
        """A cache of some activations, of the model where it was run, and the seconds that a byte of it took."""
        d_in, dtype = self.shape.d_model, self.settings.data.dtype
        rows = max(self.batch, min(8 * self.batch, _ROWS_BYTES // (4 * d_in)))
        generator = torch.Generator().manual_seed(0)
        if acts_TD is None or not len(acts_TD):
            acts_RD = torch.randn(rows, d_in, generator=generator)
        else:
            acts_RD = acts_TD[torch.randint(len(acts_TD), (rows,), generator=generator)]
        began = time.perf_counter()
        writer = CacheWriter(self.folder / "cache", d_in=d_in, dtype=dtype, contents="plan", shard_rows=rows)
        writer.append(acts_RD)
        cache = writer.finish()
        return cache, (time.perf_counter() - began) / (rows * d_in * getattr(torch, dtype).itemsize)

    def _flop(self) -> float:
        """Seconds of one operation of a float32 product on the CPU, or on the GPU if that is the device."""
        left, right = (torch.randn(1024, 1024, device=self.device) for _ in range(2))
        return self._repeated(lambda: torch.mm(left, right), 0.3) / (2 * 1024**3)

    def _plan(self, steps: int, batch: int) -> Plan:
        return Plan("a trial", steps, batch, 1, self.settings.training.seed, self.device)

    def _batch(self, group: Group) -> int:
        """Rows of a batch that a process has."""
        return -(-self.batch // self._processes) if group.split else self.batch

    def _step(self, group: Group, cache: ActivationCache, flop: float, seconds: float) -> float:
        """Seconds of one step of members side by side; one of them times their number where all are too many."""
        members, rows = group.members, group.members * self._batch(group)
        if members > 1 and self._largest(group.width, flop, rows, seconds / 5, members) < group.width:
            return members * self._step(group._replace(members=1), cache, flop, seconds)
        return self._at_width(
            group.width,
            flop,
            rows,
            lambda features: self._trial(group._replace(width=features), cache, seconds),
            seconds=seconds / 5,
            members=members,
        )

    def _trial(self, group: Group, cache: ActivationCache, seconds: float) -> float:
        """Seconds of one step of the real stage, after two that are not counted."""
        settings, batch = self._with_width(group.width, k=group.k), self._batch(group)
        if group.split:
            plain = settings.training.model_copy(update={"kernels": "plain"})
            settings = settings.model_copy(update={"training": plain})
        plan, zero_D = self._plan(10_000, batch), torch.zeros(self.shape.d_model)
        numbers = range(group.members) if group.members > 1 else (None,)
        trainers = [make_trainer(settings, zero_D, plan, member=number, width=group.width) for number in numbers]
        target, checkpoint = Target.activations(cache), self.folder / "checkpoint.safetensors"
        warm = train_stage(trainers, target, self._plan(2, batch), checkpoint=checkpoint)
        steps = max(1, min(100, int(seconds / max(1e-6, float(warm["seconds"].max()) / 2))))
        curves = train_stage(trainers, target, self._plan(steps, batch), checkpoint=checkpoint)
        return float(curves["seconds"].max()) / steps

    def _with_width(self, width: int, *, k: int | None = None) -> RunSettings:
        k = k or self.settings.sae.k
        sae = self.settings.sae.model_copy(update={"width": max(width, k), "k": k})
        return self.settings.model_copy(update={"sae": sae})

    def _run(self, cache: ActivationCache, seconds: float) -> Callable[[int], float]:
        def measure(width: int) -> float:
            sae, acts_BD = self._finished(width, cache), cache.read(0, min(BLOCK_ROWS, cache.rows)).to(self.device)
            encoder = FrozenEncoder(self.settings.training.kernels)  # as boosting runs them
            return self._repeated(lambda: encoder.reconstruct(sae, acts_BD), seconds) / len(acts_BD)

        return measure

    def _index(self, cache: ActivationCache, seconds: float) -> Callable[[int], float]:
        def measure(width: int) -> float:
            ensemble = Ensemble([self._finished(width, cache)], wiring="parallel")
            path, tokens = self.folder / "index" / "activations.safetensors", min(2 * _BLOCK, cache.rows)
            build = lambda: build_index(ensemble, cache.read, tokens, path)  # noqa: E731
            return self._repeated(build, seconds) / tokens

        return measure

    @torch.no_grad()
    def _finished(self, width: int, cache: ActivationCache) -> SAE:
        """An SAE as it is after training, as far as its cost goes: with about k active features.

        How many one with a penalty will have is not known beforehand; the default architecture, TopK, stands in for it.
        """
        settings = self._with_width(width).sae
        if not fixes_l0(settings.architecture):
            settings = settings.model_copy(update={"architecture": SAESettings().architecture})
        sae = make_sae(settings, self.shape.d_model, width=width).to(self.device)
        if sae.shares_batch:
            sae.train().encode(cache.read(0, min(_BLOCK, cache.rows)).to(self.device))  # sets its threshold
        return sae.eval()

    def _assign(self) -> float:
        """Seconds to match two members."""
        width = self.settings.sae.width
        size = min(width, 2048)
        left, right = (torch.randn(size, min(self.shape.d_model, 256)) for _ in range(2))
        larger: float = (width / size) ** ASSIGN_POWER
        return larger * self._repeated(lambda: one_to_one(left, right), 0.3)

    def _at_width(
        self,
        width: int,
        flop: float,
        rows: int,
        measure: Callable[[int], float],
        *,
        seconds: float,
        members: int = 1,
    ) -> float:
        """What is measured for a width: at that width, or on the line through two that fit time and memory."""
        largest = self._largest(width, flop, rows, seconds, members)
        if largest == width:
            return measure(width)
        half, whole = measure(largest // 2), measure(largest)
        remark = f"{width:,} features take too long to be tried; times are extended from {largest:,} and fewer."
        if remark not in self.remarks:
            self.remarks.append(remark)
        return whole + max(0.0, whole - half) * (width - largest) / (largest - largest // 2)

    def _largest(self, width: int, flop: float, rows: int, seconds: float, members: int) -> int:
        """The largest part of a width, by halves, with which rows through a plain step fit time and memory."""
        free, d_in, k = free_host_memory(), self.shape.d_model, self.settings.sae.k
        while width // 2 >= max(_NARROWEST, 2 * k):
            sae = SAEShape(self.settings.sae.architecture, d_in, width, k)
            need = members * (sae.state_bytes + sae.kept_gradient_bytes) + sae.plain_step_bytes(rows // members)
            if 2 * rows * sae.step_flops * flop <= seconds and (free is None or need <= _MEMORY_SHARE * free):
                break
            width //= 2
        return width

    def _repeated(self, work: Callable[[], object], seconds: float) -> float:
        """Mean seconds of a call, over as many as fit, after one that is not counted; of that one if it is too long."""
        first = self._timed(work)
        if first > seconds:
            return first
        spent = [self._timed(work)]
        while sum(spent) + first < seconds:
            spent.append(self._timed(work))
        return sum(spent) / len(spent)

    def _timed(self, work: Callable[[], object]) -> float:
        began = time.perf_counter()
        work()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter() - began


def _busy() -> list[str]:
    """A remark where other programs use the processor, as times are then theirs too."""
    try:
        load, cores = os.getloadavg()[0], os.cpu_count() or 1
    except OSError:  # not every system counts it
        return []
    if load < _BUSY * cores:
        return []
    return [
        f"Other programs keep this machine busy (load {load:.1f} on {cores} cores); times are those of now, and on two "
        "and more threads, which wait for each other, several times those of a quiet machine."
    ]
