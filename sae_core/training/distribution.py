"""Share the work of one pass among processes: each takes some of the members, or some rows of every batch.

If members are spread, each process trains its own members on whole batches, and the result equals that of one process,
bit by bit; the explained variance of the ensemble needs the sum of all reconstructions. If there are fewer members than
processes, each process has all members and some rows of each batch. Gradients are then summed before clipping and Adam,
so the result equals that of one process except for the order of sums.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from sae_core.training.gradients import Outcome
from sae_core.training.processes import ALONE, Processes, share
from sae_core.training.source import Source


class Part:
    """The part of a process in a pass; this class does everything in one process.

    Args:
        group: Numbers of the members that are trained in the pass.
        processes: The processes.

    Attributes:
        group: As given.
        members: The members that this process trains.
        written: The members that this process writes.
        side_by_side: Largest number of members that a process trains together.
    """

    splits = False
    """Whether the process reads only some rows of a batch."""

    def __init__(self, group: range = range(0), processes: Processes = ALONE) -> None:
        self.processes, self.group = processes, group
        self.members = self.written = group
        self.side_by_side = len(group)

    def rows(self, acts_BD: Tensor) -> Tensor:
        """The rows of a batch for this process."""
        return acts_BD

    def whole(self, rows: int) -> int:
        """Number of rows in whole batches, of which this process has read ``rows``."""
        return rows

    def combine(self, outcome: Outcome) -> Outcome:
        """Combine gradients and fired features of a step over the whole batch; other sums stay those of the rows."""
        return outcome

    def mean(self, value: Tensor) -> Tensor:
        """The mean over the whole batch, from the mean over this process's rows."""
        return value

    def sum_rows(self, tensor: Tensor) -> Tensor:
        """The sum over all rows, from the sum over this process's rows."""
        return tensor

    def mean_members(self, recon_JBD: Tensor) -> Tensor:
        """The mean reconstruction [B, D] over all members, from the reconstructions of this process's members."""
        return recon_JBD.mean(dim=0)

    def every_member(self, table_JC: Tensor) -> Tensor:
        """The figures of all members, from the figures of this process's members."""
        return table_JC

    def start_alike(self, tensors: Sequence[Tensor]) -> None:
        """Overwrite tensors that must be equal in all processes with the values of the first process."""


class Spread(Part):
    """A process with some of the members and whole batches."""

    def __init__(self, group: range, processes: Processes) -> None:
        super().__init__(group, processes)
        self.members = self.written = share(group, processes.rank, processes.size)
        self.side_by_side = -(-len(group) // processes.size)

    def mean_members(self, recon_JBD: Tensor) -> Tensor:
        """Sum over the processes."""
        return self.processes.sum(recon_JBD.sum(dim=0)) / len(self.group)

    def every_member(self, table_JC: Tensor) -> Tensor:
        """Sum over the processes, each of which puts its rows into a table of zeros."""
        whole = torch.zeros(len(self.group), table_JC.shape[1], dtype=table_JC.dtype)
        first = self.members.start - self.group.start
        whole[first : first + len(table_JC)] = table_JC
        return self.processes.sum_on_host(whole)


class Split(Part):
    """A process with all members and some rows of every batch.

    Raises:
        UserError: If a batch has fewer rows than there are processes.
    """

    splits = True

    def __init__(self, group: range, processes: Processes, *, batch_size: int) -> None:
        super().__init__(group, processes)
        if batch_size < processes.size:
            raise processes.refusal(
                f"A batch of {batch_size} cannot be split over {processes.size} processes; start fewer."
            )
        self.batch_size, self.place = batch_size, processes.rank
        self._mine = share(range(batch_size), processes.rank, processes.size)
        self._weight = len(self._mine) / batch_size
        self.written = group if processes.rank == 0 else range(0)

    def rows(self, acts_BD: Tensor) -> Tensor:
        """Consecutive rows of a batch; the numbers of rows differ by at most one between processes."""
        return acts_BD[self._mine.start : self._mine.stop]

    def whole(self, rows: int) -> int:
        """Scale by the batch size over this process's rows of a batch."""
        return rows // len(self._mine) * self.batch_size

    def combine(self, outcome: Outcome) -> Outcome:
        """Sum gradients weighted by the share of rows, since every part of the loss is a mean over rows."""
        gradients = dict(outcome.gradients)
        for gradient in gradients.values():
            if gradient.dim() == 2:
                self.processes.sum(_as_it_lies(gradient.mul_(self._weight)))
        # Send all vectors in one message, since a small message costs as much as a larger one.
        vectors = [name for name, gradient in gradients.items() if gradient.dim() == 1]
        parts = [*(gradients[name] * self._weight for name in vectors), outcome.fired_N.float()]
        sums = self.processes.sum(torch.cat(parts)).split([len(part) for part in parts])
        gradients |= dict(zip(vectors, sums, strict=False))
        return replace(outcome, gradients=gradients, loss=outcome.loss * self._weight, fired_N=sums[-1] > 0)

    def mean(self, value: Tensor) -> Tensor:
        """Weight by the rows of each process."""
        return self.processes.sum(value * self._weight)

    def sum_rows(self, tensor: Tensor) -> Tensor:
        """Added up."""
        return self.processes.sum(tensor.clone())

    @torch.no_grad()
    def start_alike(self, tensors: Sequence[Tensor]) -> None:
        """Overwrite the first weights, whose means may differ by rounding between machines."""
        for tensor in tensors:
            self.processes.copy_of_first(_as_it_lies(tensor))

    def gather(self, values_K: Tensor) -> Tensor:
        """Gather the values [R, K] of all processes."""
        return self.processes.gather(values_K)


def _as_it_lies(tensor: Tensor) -> Tensor:
    """View the same memory as a contiguous tensor: only these can be sent, and W_enc is stored feature by feature."""
    lying = tensor if tensor.is_contiguous() else tensor.T
    assert lying.is_contiguous()
    return lying


def part_of(group: range, processes: Processes, *, batch_size: int, pipelined: bool = False) -> Part:
    """Choose the part of this process in training a group of members.

    If ``pipelined``, each member needs the residual of the earlier ones, so that members cannot be spread.

    Raises:
        UserError: If a batch must be split but has fewer rows than there are processes.
    """
    if processes.size == 1:
        return Part(group, processes)
    if pipelined or len(group) < processes.size:
        return Split(group, processes, batch_size=batch_size)
    return Spread(group, processes)


class SharedSource:
    """A source that only the first process reads, for sources that are costly to read, such as a language model."""

    def __init__(self, source: Source, processes: Processes) -> None:
        self._source, self._processes = source, processes
        self.rows, self.d_in, self.mean_D, self.scale = source.rows, source.d_in, source.mean_D, source.scale

    def batches(self, *, batch_size: int, seed: int, first_step: int = 0) -> Iterator[Tensor]:
        """Yield the batches of the source; every process must draw the same number of batches."""
        if self._processes.rank == 0:
            for acts_BD in self._source.batches(batch_size=batch_size, seed=seed, first_step=first_step):
                yield self._processes.hand_out(acts_BD.float().cpu().contiguous())
        while True:
            yield self._processes.hand_out(torch.empty(batch_size, self.d_in))
