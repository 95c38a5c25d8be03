"""The processes of one job: ``torchrun`` starts several, each does its share of the work, and the first one writes.

Without ``torchrun`` there is one process, and all that is here costs nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """The place of this process among those of its job.

    The methods that exchange something must be called by all of them, in the same order.

    Attributes:
        rank: the number of this process, from 0.
        count: how many there are.
        local_rank: its number among those on this machine, which is that of its GPU.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0

    @classmethod
    def started(cls) -> Processes:
        """Return what ``torchrun`` says in the environment, without meeting the others."""
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
        if any(name not in os.environ for name in names):
            return cls()
        return cls(*(int(os.environ[name]) for name in names))

    @classmethod
    def join(cls) -> Processes:
        """Meet the other processes: over NCCL for what is on a GPU, over Gloo for the rest."""
        import torch
        import torch.distributed as distributed

        processes = cls.started()
        if processes.count > 1 and not distributed.is_initialized():
            if torch.cuda.is_available():
                torch.cuda.set_device(processes.local_rank % torch.cuda.device_count())
            gpu = torch.cuda.is_available() and distributed.is_nccl_available()
            distributed.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo")
        return processes

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and reports."""
        return self.rank == 0

    @property
    def several(self) -> bool:
        """Whether there are others."""
        return self.count > 1

    def yield_to_first(self) -> None:
        """Wait a little before an error is told: if the first process meets it too, ``torchrun`` ends this one."""
        if not self.first:
            time.sleep(5)

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """Return the items that this process works on: every item is one process's."""
        return items[self.rank :: self.count] if self.several else items

    def wait(self) -> None:
        """Wait until all processes are here."""
        self.gather(None)

    def gather(self, value: T) -> list[T]:
        """Return the values of all processes, which can be pickled, in the order of their ranks."""
        if not self.several:
            return [value]
        import torch.distributed as distributed

        values: list[Any] = [None] * self.count
        distributed.all_gather_object(values, value)
        return values

    def broadcast(self, value: T) -> T:
        """Return the first process's value, which can be pickled."""
        if not self.several:
            return value
        import torch.distributed as distributed

        values = [value]
        distributed.broadcast_object_list(values, src=0)
        return values[0]

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Replace tensors, which have the same shapes everywhere, by their means over the processes."""
        if not self.several:
            return
        import torch
        import torch.distributed as distributed

        tensors = list(tensors)
        for dtype in {tensor.dtype for tensor in tensors}:
            of_type = [tensor for tensor in tensors if tensor.dtype == dtype]
            flat = torch.cat([tensor.reshape(-1) for tensor in of_type])  # one message is faster than many
            distributed.all_reduce(flat)
            flat /= self.count
            for tensor, mean in zip(of_type, flat.split([tensor.numel() for tensor in of_type]), strict=True):
                tensor.copy_(mean.view(tensor.shape))


ALONE = Processes()
