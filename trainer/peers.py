"""Processes that train one model together, each on its share of every batch (torch.distributed)."""

from dataclasses import dataclass

import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class Peers:
    """This process among those of its group; alone where there is no group.

    Shares of a batch may hold unequal numbers of real targets, so a mean is taken over everybody's: gradients,
    which are averaged over processes, are then those of the whole batch on one process.
    """

    rank: int = 0
    count: int = 1

    @classmethod
    def found(cls) -> "Peers":
        """The group this process was put into, by Ray Train or torchrun."""
        return cls(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else cls()

    def joined(self, model: nn.Module) -> nn.Module:
        """The model, its gradients averaged over all processes in every backward pass."""
        return model if self.count == 1 else DistributedDataParallel(model, broadcast_buffers=False)

    def share(self, rows: Tensor) -> Tensor:
        """Every n-th row. A batch with fewer rows than processes is computed by all of them: the mean is the same."""
        return rows[self.rank :: self.count] if len(rows) >= self.count else rows

    def mean(self, total: Tensor, count: Tensor) -> Tensor:
        """This process's part of Σ total / Σ count, scaled so that the average over processes is the mean."""
        return total * self.count / self.sum(count.to(total)).clamp(min=1)

    def sum(self, value: Tensor) -> Tensor:
        """Over all processes; carries no gradient where there are several."""
        if self.count == 1:
            return value
        summed = value.detach().clone()
        dist.all_reduce(summed)
        return summed


ALONE = Peers()
