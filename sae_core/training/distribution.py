"""How the work of one pass is shared by processes: members spread over them, or the rows of every batch.

Spread, each process trains its own members on whole batches, bit by bit as one process would train all of them; what
the ensemble explains needs the sum of all reconstructions. Where there are fewer members than processes, each process
has all of them and some rows of each batch, and gradients are summed before clipping and Adam: what one process does,
but for the order of sums.
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
    """What a process does in a pass; this one does everything.

    Args:
        group: Numbers of the members that are trained in the pass.
        processes: The processes.

    Attributes:
        group: As given.
        members: Those of them that this process trains.
        written: Those of them that this process writes.
        side_by_side: Members that a process trains side by side, at most.
    """

    splits = False
    """Whether the process sees only some rows of a batch."""

    def __init__(self, group: range = range(0), processes: Processes = ALONE) -> None:
        self.processes, self.group = processes, group
        self.members = self.written = group
        self.side_by_side = len(group)

    def rows(self, acts_BD: Tensor) -> Tensor:
        """The rows of a batch that this process takes."""
        return acts_BD

    def whole(self, rows: int) -> int:
        """Rows of the batches of which this process has had ``rows``."""
        return rows

    def combine(self, outcome: Outcome) -> Outcome:
        """What a step gave, with gradients and fired features of the whole batch; other sums stay those of the rows."""
        return outcome

    def mean(self, value: Tensor) -> Tensor:
        """Mean over the whole batch of what is the mean over this process's rows."""
        return value

    def sum_rows(self, tensor: Tensor) -> Tensor:
        """Sum over all rows of what is a sum over this process's rows."""
        return tensor

    def mean_members(self, recon_JBD: Tensor) -> Tensor:
        """Mean [B, D] over all members of the reconstructions of those that this process trains."""
        return recon_JBD.mean(dim=0)

    def every_member(self, table_JC: Tensor) -> Tensor:
        """The rows of all members' figures, from those of the members that this process trains."""
        return table_JC

    def start_alike(self, tensors: Sequence[Tensor]) -> None:
        """Give tensors that have to be equal in all processes the values of the first one."""


class Spread(Part):
    """Some of the members, and whole batches."""

    def __init__(self, group: range, processes: Processes) -> None:
        super().__init__(group, processes)
        self.members = self.written = share(group, processes.rank, processes.size)
        self.side_by_side = -(-len(group) // processes.size)

    def mean_members(self, recon_JBD: Tensor) -> Tensor:
        """Summed over the processes."""
        return self.processes.sum(recon_JBD.sum(dim=0)) / len(self.group)

    def every_member(self, table_JC: Tensor) -> Tensor:
        """Each process adds its rows to a table of zeros, so that sums are what was there."""
        whole = torch.zeros(len(self.group), table_JC.shape[1], dtype=table_JC.dtype)
        first = self.members.start - self.group.start
        whole[first : first + len(table_JC)] = table_JC
        return self.processes.sum_on_host(whole)


class Split(Part):
    """All members, and some rows of every batch.

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
        """Consecutive rows, as many as the others have or one more."""
        return acts_BD[self._mine.start : self._mine.stop]

    def whole(self, rows: int) -> int:
        """As the batch size is to the rows of one batch."""
        return rows // len(self._mine) * self.batch_size

    def combine(self, outcome: Outcome) -> Outcome:
        """Every part of the loss is a mean over rows, so gradients are added up by the share of the rows."""
        gradients = dict(outcome.gradients)
        for gradient in gradients.values():
            if gradient.dim() == 2:
                self.processes.sum(_as_it_lies(gradient.mul_(self._weight)))
        # The vectors travel together; one message costs about as much as another, however small.
        vectors = [name for name, gradient in gradients.items() if gradient.dim() == 1]
        parts = [*(gradients[name] * self._weight for name in vectors), outcome.fired_N.float()]
        sums = self.processes.sum(torch.cat(parts)).split([len(part) for part in parts])
        gradients |= dict(zip(vectors, sums, strict=False))
        return replace(outcome, gradients=gradients, loss=outcome.loss * self._weight, fired_N=sums[-1] > 0)

    def mean(self, value: Tensor) -> Tensor:
        """Weighted by the rows of each process."""
        return self.processes.sum(value * self._weight)

    def sum_rows(self, tensor: Tensor) -> Tensor:
        """Added up."""
        return self.processes.sum(tensor.clone())

    @torch.no_grad()
    def start_alike(self, tensors: Sequence[Tensor]) -> None:
        """Means that go into the first weights may differ by rounding on different machines."""
        for tensor in tensors:
            self.processes.copy_of_first(_as_it_lies(tensor))

    def gather(self, values_K: Tensor) -> Tensor:
        """Values [R, K] of all processes."""
        return self.processes.gather(values_K)


def _as_it_lies(tensor: Tensor) -> Tensor:
    """The same memory as a contiguous tensor: only such can be sent, and W_enc lies feature by feature."""
    lying = tensor if tensor.is_contiguous() else tensor.T
    assert lying.is_contiguous()
    return lying


def part_of(group: range, processes: Processes, *, batch_size: int, pipelined: bool = False) -> Part:
    """The part of this process in training a group of members.

    Args:
        group: Their numbers.
        processes: The processes.
        batch_size: Activations in a step.
        pipelined: Whether each member needs what the one before it left, so that members cannot be spread.

    Raises:
        UserError: If a batch would have to be split and has fewer rows than there are processes.
    """
    if processes.size == 1:
        return Part(group, processes)
    if pipelined or len(group) < processes.size:
        return Split(group, processes, batch_size=batch_size)
    return Spread(group, processes)


class SharedSource:
    """A source that only the first process reads, for one that is costly to read: a language model.

    Args:
        source: The source.
        processes: The processes.
    """

    def __init__(self, source: Source, processes: Processes) -> None:
        self._source, self._processes = source, processes
        self.rows, self.d_in, self.mean_D, self.scale = source.rows, source.d_in, source.mean_D, source.scale

    def batches(self, *, batch_size: int, seed: int, first_step: int = 0) -> Iterator[Tensor]:
        """The batches of the source; every process must draw the same number of them."""
        if self._processes.rank == 0:
            for acts_BD in self._source.batches(batch_size=batch_size, seed=seed, first_step=first_step):
                yield self._processes.hand_out(acts_BD.float().cpu().contiguous())
        while True:
            yield self._processes.hand_out(torch.empty(batch_size, self.d_in))
