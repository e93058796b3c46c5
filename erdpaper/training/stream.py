"""The training data of a step, as a function of the step alone.

Every random number of step k comes from a generator seeded by (seed, k) and every epoch's order
from one seeded by (seed, epoch). A run that goes on at step k sees what it would have seen, on any
number of processes, and two runs with one seed differ only in what is asked of the network.
"""

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from erdpaper.training.batches import Batch, Objective

_ORDER, _STEP = 0, 1


def generator_for(*entropy: int) -> torch.Generator:
    """A generator on the CPU, a stream of its own for every tuple of whole numbers.

    They lie in 0..2^32 - 1; a shorter tuple means the longer one with zeros at its end.
    """
    state = np.random.SeedSequence(entropy).generate_state(1, np.uint64)
    # torch takes seeds up to 2^63 - 1 on every platform
    return torch.Generator().manual_seed(int(state[0]) >> 1)


class Source(Protocol):
    """N examples somewhere: in memory (`Held`), or in the files of an encoded folder.

    labels: (N,) int64, or None where there are no classes.  shape: that of one example.
    """

    @property
    def labels(self) -> Tensor | None:
        """The class of each example."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one example."""

    def __len__(self) -> int: ...

    def take(self, indices: Tensor, generator: torch.Generator) -> Tensor:
        """Examples as a model is given them, (n, shape...).

        What is random about them depends on the generator alone.
        """


@dataclass(frozen=True)
class Held:
    """Examples held in memory: x (N, D...) and their labels (N,), if any."""

    x: Tensor
    labels: Tensor | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one example."""
        return tuple(self.x.shape[1:])

    def __len__(self) -> int:
        return len(self.x)

    def take(self, indices: Tensor, generator: torch.Generator) -> Tensor:
        """The examples as they are."""
        return self.x[indices]


@dataclass
class Order:
    """Which of n samples a step sees: every epoch goes through all, in an order of its own."""

    n: int
    batch: int
    seed: int
    _epoch: tuple[int, Tensor] = field(default=(-1, torch.empty(0)), init=False, repr=False)

    def __post_init__(self) -> None:
        if not 1 <= self.batch <= self.n:
            raise ValueError(f"the batch must lie in 1..{self.n} (the samples), got {self.batch}")

    def __call__(self, step: int) -> Tensor:
        """The indices of step 1, 2, ..., (batch,)."""
        first = (step - 1) * self.batch
        epoch, start = divmod(first, self.n)
        indices = self._order(epoch)[start : start + self.batch]
        missing = self.batch - len(indices)
        return torch.cat([indices, self._order(epoch + 1)[:missing]]) if missing else indices

    def _order(self, epoch: int) -> Tensor:
        if self._epoch[0] != epoch:
            order = torch.randperm(self.n, generator=generator_for(self.seed, _ORDER, epoch))
            self._epoch = epoch, order
        return self._epoch[1]


@dataclass(frozen=True)
class Labels:
    """Class labels (N,) of the data, each replaced by `null` with probability `dropout`.

    The choice is made once per sample and step, here and not in the network, so that guidance's
    unconditional network is trained on the same samples whatever the network [P G.1].
    """

    classes: Tensor
    null: int
    dropout: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.dropout < 1:
            raise ValueError(f"label dropout must lie in [0, 1), got {self.dropout}")
        if bool((self.classes == self.null).any()):
            raise ValueError(f"the label for none must be no class of the data, got {self.null}")

    def draw(self, indices: Tensor, generator: torch.Generator) -> Tensor:
        """The labels that the samples of a batch are trained with."""
        dropped = torch.rand(len(indices), generator=generator) < self.dropout
        return self.classes[indices].masked_fill(dropped.to(self.classes.device), self.null)


@dataclass(frozen=True)
class Stream:
    """step -> the global batch of noisy data of that step.

    data: a source of examples, or a tensor of them (N, D...); labels None for networks that take
    none.
    """

    data: Source | Tensor
    objective: Objective
    batch: int
    seed: int
    labels: Labels | None = None
    _source: Source = field(init=False, repr=False)
    _order: Order = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.labels is not None and len(self.labels.classes) != len(self.data):
            raise ValueError(
                f"{len(self.data)} samples need as many labels, got {len(self.labels.classes)}"
            )
        source = Held(self.data) if isinstance(self.data, Tensor) else self.data
        object.__setattr__(self, "_source", source)
        object.__setattr__(self, "_order", Order(len(self.data), self.batch, self.seed))

    def __call__(self, step: int) -> Batch:
        """The batch of step 1, 2, ...; x (batch, D...) in the data's dtype."""
        generator = generator_for(self.seed, _STEP, step)
        indices = self._order(step)
        label = None if self.labels is None else self.labels.draw(indices, generator)
        x0 = self._source.take(indices, generator)
        return self.objective.batch(x0, generator, label)
