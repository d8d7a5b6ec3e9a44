"""`Order`: which samples make up the batch of each step."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from isthmus.randomness import stream


@dataclass(eq=False)
class Order:
    """An endless sequence of permutations of `n` samples, cut into batches of `size`, whatever the two are.

    Each permutation has a stream of its own, so a batch does not depend on the batches asked for before.
    """

    n: int
    size: int
    seed: int
    _epochs: dict[int, Tensor] = field(default_factory=dict[int, Tensor])

    def batch(self, step: int) -> Tensor:
        """Return the (size,) positions of the samples at `step`."""
        start = step * self.size
        epochs = range(start // self.n, (start + self.size - 1) // self.n + 1)
        order = torch.cat([self._permutation(epoch) for epoch in epochs])
        offset = start - epochs[0] * self.n
        return order[offset : offset + self.size]

    def _permutation(self, epoch: int) -> Tensor:
        if epoch not in self._epochs:
            kept = {e: order for e, order in self._epochs.items() if e == epoch - 1}
            self._epochs = kept | {epoch: torch.randperm(self.n, generator=stream(self.seed, "order", epoch))}
        return self._epochs[epoch]
