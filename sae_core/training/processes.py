"""Let the processes that train a run together communicate (torch.distributed, started by torchrun).

There are two groups. A gloo group with a timeout of days carries messages between hosts: agreements, and waiting while
one process works for all. The other group carries tensors of the training, with NCCL if every process has its own GPU,
else with gloo.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from sae_core.foundation.errors import ElsewhereError, UserError
from sae_core.foundation.files.whole_files import write_text
from sae_core.foundation.machine import launch
from sae_core.foundation.machine.device import resolve_device
from sae_core.foundation.run import meeting_point

Result = TypeVar("Result")

PATIENCE = timedelta(days=7)
"""How long a process waits for a process that works for all, such as the first, which reads the activations."""

SIGHT_SECONDS = 60.0
"""How long other machines may take to see a new file, since network storage looks for new files only now and then."""


class Processes:
    """A single process, which answers every question itself and sends nothing.

    Attributes:
        rank: Number of this process.
        size: Number of processes.
        here: Number of processes on this machine.
    """

    rank, size, here = 0, 1, 1

    def place(self, wanted: str) -> torch.device:
        """The device of this process for the setting ``training.device``.

        Raises:
            UserError: If the device does not exist, or the processes cannot share it.
        """
        return torch.device(resolve_device(wanted))

    def together(self, work: Callable[[], Result]) -> Result:
        """Do work that every process does, and go on only if all processes succeed.

        Raises:
            ElsewhereError: If the work failed in another process. The first process that fails raises its own
            exception.
        """
        return work()

    def first(self, work: Callable[[], object]) -> None:
        """Let the first process work for all while the others wait. Raises as `together` does."""
        work()

    def any(self, *flags: bool) -> list[bool]:
        """Whether each flag is set in any process."""
        return list(flags)

    def of_first(self, *numbers: float) -> list[float]:
        """Return the numbers of the first process, so that all processes decide alike."""
        return list(numbers)

    def largest(self, number: float) -> float:
        """The largest number of any process."""
        return number

    def sum_on_host(self, table: Tensor) -> Tensor:
        """Sum a tensor on the CPU over the processes, in place."""
        return table

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum a contiguous tensor on the device over the processes, in place."""
        return tensor

    def gather(self, tensor: Tensor) -> Tensor:
        """Stack the tensors of all processes, which must have the same shape."""
        return tensor[None]

    def copy_of_first(self, tensor: Tensor) -> Tensor:
        """Overwrite a tensor on the device with the first process's tensor."""
        return tensor

    def hand_out(self, batch: Tensor) -> Tensor:
        """Overwrite a contiguous tensor on the CPU with the first process's; another thread may call this meanwhile."""
        return batch

    def barrier(self) -> None:
        """Wait for all processes."""

    def refusal(self, sentence: str) -> UserError:
        """Make the error for a refusal that all processes share, so that only the first process prints it.

        Every process must call this function, since they wait for each other.
        """
        return UserError(sentence)

    def require_same_folder(self, path: Path, *, seconds: float = SIGHT_SECONDS) -> None:
        """Check that all processes see the same folder at a path.

        Raises:
            UserError: If a process sees another folder.
        """


class _Joined(Processes):
    def __init__(self) -> None:
        self.rank, self.size, self.here = dist.get_rank(), dist.get_world_size(), launch.local_processes()
        self._tensors: dist.ProcessGroup | None = None
        # Batches have their own group, since messages of two threads must not get mixed up.
        self._batches = dist.new_group(backend="gloo", timeout=PATIENCE)

    def place(self, wanted: str) -> torch.device:
        if wanted not in ("auto", "cpu", "cuda"):
            raise self.refusal(
                f"training.device is {wanted}, but {self.size} processes cannot share one device; set it to auto."
            )
        enough = torch.cuda.is_available() and torch.cuda.device_count() >= self.here
        short = self.any(not enough)[0]
        if wanted == "cuda" and short:
            raise self.refusal("training.device is cuda, but there are more processes than GPUs; start fewer.")
        on_gpu = wanted != "cpu" and not short
        if self._tensors is None:
            self._tensors = dist.new_group(backend="nccl" if on_gpu else "gloo")
        device = torch.device("cuda", launch.local_rank()) if on_gpu else torch.device("cpu")
        if on_gpu:
            torch.cuda.set_device(device)
        return device

    def together(self, work: Callable[[], Result]) -> Result:
        result: list[Result] = []
        failure: BaseException | None = None
        try:
            result.append(work())
        except BaseException as error:
            failure = error
        failed = torch.tensor(self.size if failure is None else self.rank)
        dist.all_reduce(failed, dist.ReduceOp.MIN)
        if int(failed) == self.size:
            return result[0]
        if failure is not None and int(failed) == self.rank:
            raise failure
        raise ElsewhereError(f"Process {int(failed)} could not go on.") from failure

    def first(self, work: Callable[[], object]) -> None:
        self.together(work if self.rank == 0 else lambda: None)

    def any(self, *flags: bool) -> list[bool]:
        table = torch.tensor(flags, dtype=torch.uint8)
        dist.all_reduce(table, dist.ReduceOp.MAX)
        return [bool(flag) for flag in table.tolist()]

    def of_first(self, *numbers: float) -> list[float]:
        table = torch.tensor(numbers, dtype=torch.float64)
        dist.broadcast(table, 0)
        return list(table.tolist())

    def largest(self, number: float) -> float:
        table = torch.tensor(number, dtype=torch.float64)
        dist.all_reduce(table, dist.ReduceOp.MAX)
        return float(table)

    def sum_on_host(self, table: Tensor) -> Tensor:
        dist.all_reduce(table)
        return table

    def sum(self, tensor: Tensor) -> Tensor:
        dist.all_reduce(tensor, group=self._tensors)
        return tensor

    def gather(self, tensor: Tensor) -> Tensor:
        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        dist.all_gather(parts, tensor, group=self._tensors)
        return torch.stack(parts)

    def copy_of_first(self, tensor: Tensor) -> Tensor:
        dist.broadcast(tensor, 0, group=self._tensors)
        return tensor

    def hand_out(self, batch: Tensor) -> Tensor:
        dist.broadcast(batch, 0, group=self._batches)
        return batch

    def barrier(self) -> None:
        self.any(False)

    def require_same_folder(self, path: Path, *, seconds: float = SIGHT_SECONDS) -> None:
        token = torch.frombuffer(bytearray(secrets.token_bytes(8)), dtype=torch.uint8)
        dist.broadcast(token, 0)
        file = meeting_point(path, bytes(token.tolist()).hex())
        self.first(lambda: write_text(file, ""))
        deadline = time.monotonic() + seconds
        while not (seen := file.exists()) and time.monotonic() < deadline:
            time.sleep(0.1)
        blind = self.any(not seen)[0]
        self.first(file.unlink)
        if blind:
            raise self.refusal(
                f"{path} is not the same folder for all processes; put the run on storage that all machines share."
            )

    def refusal(self, sentence: str) -> UserError:
        # The first process holds the store that the others need to join; if it ended first, they would report an error.
        self.barrier()
        return ElsewhereError(sentence) if self.rank else UserError(sentence)


ALONE = Processes()


@contextmanager
def joined() -> Iterator[Processes]:
    """Join the processes that torchrun has started; without torchrun, yield a single process.

    Raises:
        UserError: If this torch was built without torch.distributed.
    """
    if launch.processes() == 1:
        yield ALONE
        return
    if not dist.is_available():
        raise UserError("This torch cannot train in several processes; install one with torch.distributed.")
    dist.init_process_group("gloo", timeout=PATIENCE)
    yield _Joined()
    # Do not do this after a failure, since processes that wait for each other would wait for ever.
    dist.destroy_process_group()


def share(numbers: Sequence[int], rank: int, size: int) -> range:
    """The consecutive numbers for one of several processes; the counts differ by at most one."""
    first, last = (len(numbers) * end // size for end in (rank, rank + 1))
    return range(numbers[0] + first, numbers[0] + last)
