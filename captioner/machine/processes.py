"""The processes of a run under ``torchrun``: each does its share of the work, and rank 0 writes.

Without ``torchrun`` there is a single process, and nothing is exchanged.
"""

from __future__ import annotations

import atexit
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
    """The rank of this process among those of its run.

    Methods that exchange values must be called by all processes, in the same order.

    Attributes:
        rank: rank of this process, from 0.
        count: number of processes.
        local_rank: rank among the processes on this machine, which is the number of its GPU.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0

    @classmethod
    def started(cls) -> Processes:
        """Read the rank from ``torchrun``'s environment, without connecting to the others."""
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
        if any(name not in os.environ for name in names):
            return cls()
        return cls(*(int(os.environ[name]) for name in names))

    @classmethod
    def join(cls) -> Processes:
        """Connect to the other processes: by NCCL for tensors on GPUs, by Gloo for the rest."""
        import torch
        import torch.distributed as distributed

        processes = cls.started()
        if processes.count > 1 and not distributed.is_initialized():
            if torch.cuda.is_available():
                torch.cuda.set_device(processes.local_rank % torch.cuda.device_count())
            gpu = torch.cuda.is_available() and distributed.is_nccl_available()
            distributed.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo")
            atexit.register(distributed.destroy_process_group)  # its threads must end before the interpreter does
        return processes

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which writes and reports."""
        return self.rank == 0

    @property
    def several(self) -> bool:
        """Whether there are other processes."""
        return self.count > 1

    def yield_to_first(self) -> None:
        """Let rank 0 report first: if it has the same error, ``torchrun`` ends this process meanwhile."""
        if not self.first:
            time.sleep(5)

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """Return this process's share of the items."""
        return items[self.rank :: self.count] if self.several else items

    def wait(self) -> None:
        """Wait for all processes."""
        self.gather(None)

    def gather(self, value: T) -> list[T]:
        """Return the values of all processes, by rank; they must be picklable."""
        if not self.several:
            return [value]
        import torch.distributed as distributed

        values: list[Any] = [None] * self.count
        distributed.all_gather_object(values, value)
        return values

    def broadcast(self, value: T) -> T:
        """Return rank 0's value, which must be picklable."""
        if not self.several:
            return value
        import torch.distributed as distributed

        values = [value]
        distributed.broadcast_object_list(values, src=0)
        return values[0]

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Replace tensors by their means over the processes; shapes must be the same in all."""
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


SINGLE_PROCESS = Processes()
