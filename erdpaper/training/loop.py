"""The training loop: batches in, a small record after every step out.

`Trainer.run` is a generator: whoever drives it decides when to look at the network and when to keep
it. Everything that a step needs is either a function of the step (its batch, its learning rate) or
in a checkpoint, so that a run can stop after any step and go on, bit for bit on a CPU.

    theta <- AdamW(theta, mean gradient of the global batch),    ema <- d ema + (1 - d) theta

A global batch is cut into equal parts, one for each process and step of accumulation, so that their
number changes rounding only; except where a network has dropout, which differs from process to
process. Under FSDP each process holds a part of the network, of its moments and of its average.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from erdpaper.training import sharding
from erdpaper.training.batches import Draw, loss_of
from erdpaper.training.stream import generator_for

if TYPE_CHECKING:
    from accelerate import Accelerator

Decay = Literal["constant", "cosine"]
# the stream of random numbers of a process other than the first
_DROPOUT = 30
# how often the loss is looked at where a GPU has to be waited for
_CHECK_EVERY = 50


class TrainingError(RuntimeError):
    """Training cannot go on; the message says at which step and why."""


class Record(NamedTuple):
    """After a step: how many are done, the loss before it, () or (K,), and its learning rate."""

    step: int
    loss: Tensor
    lr: float


class Loss(Protocol):
    """(model, batch) -> a scalar, or one number per network of a stack."""

    def __call__(self, model: nn.Module, batch: Any) -> Tensor:
        """The mean over the batch."""


@dataclass(frozen=True)
class Recipe:
    """How a network is trained: AdamW, its learning rate over the steps, clipping and averaging.

    lr rises linearly over `warmup` steps, then stays ("constant") or falls as half a cosine.
    clip: largest norm of the gradient.  ema: decay of the moving average of the weights.
    accumulate: parts into which each process cuts its share of a batch.
    """

    steps: int
    lr: float = 1e-3
    decay: Decay = "constant"
    warmup: int = 0
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    clip: float | None = None
    ema: float | None = None
    accumulate: int = 1

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 < self.lr < math.inf:
            raise ValueError(
                f"training needs steps >= 1 and a positive lr, got {self.steps} and {self.lr}"
            )
        if self.decay not in ("constant", "cosine"):
            raise ValueError(f"decay must be 'constant' or 'cosine', got {self.decay!r}")
        if not 0 <= self.warmup < self.steps:
            raise ValueError(f"the warm-up must be shorter than {self.steps}, got {self.warmup}")
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"the norm at which gradients are clipped must be > 0: {self.clip}")
        if self.accumulate < 1:
            raise ValueError(f"accumulate must be at least 1, got {self.accumulate}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"both betas must lie in [0, 1), got {self.betas}")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"the weight decay must be finite and >= 0, got {self.weight_decay}")
        if self.ema is not None:
            _check_decay(self.ema)

    def rate(self, step: int) -> float:
        """The learning rate of step 1, 2, ..."""
        if step <= self.warmup:
            return self.lr * step / self.warmup
        if self.decay == "constant":
            return self.lr
        done = (step - 1 - self.warmup) / (self.steps - self.warmup)
        return self.lr * (1 + math.cos(math.pi * done)) / 2


def share(batch: int, processes: int, accumulate: int) -> int:
    """How many samples of a batch a process has at a time, ValueError if they are not as many."""
    size, rest = divmod(batch, processes * accumulate)
    if rest or not size:
        raise ValueError(
            f"a batch of {batch} cannot be cut into {processes} (processes) "
            f"x {accumulate} (accumulation) equal parts"
        )
    return size


def _check_decay(decay: float) -> None:
    if not 0 < decay < 1:
        raise ValueError(f"the decay of a moving average must lie between 0 and 1, got {decay}")


class MovingAverage(AveragedModel):
    """torch's, whose every update lists all modules anew; this one remembers the pairs it found."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__(model, multi_avg_fn=get_ema_multi_avg_fn(decay))
        self._decay = decay
        self._pairs: tuple[list[Tensor], list[Tensor], list[tuple[Tensor, Tensor]]] | None = None

    def update_parameters(self, model: nn.Module) -> None:
        """average <- decay average + (1 - decay) model; buffers are copied."""
        if self._pairs is None:
            super().update_parameters(model)
            own, theirs = ([sharding.own(p) for p in m.parameters()] for m in (self.module, model))
            buffers = list(zip(self.module.buffers(), model.buffers(), strict=True))
            self._pairs = own, theirs, buffers
            return
        own, theirs, buffers = self._pairs
        torch._foreach_lerp_(own, theirs, 1 - self._decay)
        for mine, yours in buffers:
            mine.copy_(yours.detach())
        self.n_averaged += 1


def averaged(model: nn.Module, decay: float) -> AveragedModel:
    """An exponential moving average of a network, called like it; a trainer keeps it up to date."""
    _check_decay(decay)
    return MovingAverage(model, decay)


class Alone:
    """What the loop asks of an Accelerator, for one process that computes as it is told."""

    num_processes = 1
    process_index = 0
    is_main_process = True

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss."""
        torch.autograd.backward(loss)

    def clip_grad_norm_(self, parameters: Any, norm: float) -> None:
        """Scale all gradients down to a common norm."""
        nn.utils.clip_grad_norm_(parameters, norm)

    def no_sync(self, model: nn.Module) -> AbstractContextManager[None]:
        """Nothing is exchanged with anybody."""
        return nullcontext()

    def reduce(self, tensor: Tensor, reduction: str) -> Tensor:
        """The mean over one process."""
        return tensor


class Trainer:
    """A network in training.  step: how many steps are done; average: its moving average, if any.

    draw(step) gives the global batch of step 1, 2, ..., a NamedTuple of tensors (or None) with
    samples on the first axis, and goes to where the model is. With an accelerator, which brings
    processes and mixed precision, the model must be on its device.
    """

    def __init__(
        self,
        model: nn.Module,
        draw: Callable[[int], Any],
        recipe: Recipe,
        loss: Loss = loss_of,
        accelerator: "Accelerator | None" = None,
    ) -> None:
        if accelerator is not None and accelerator.gradient_accumulation_steps != 1:
            raise ValueError("leave accumulation to the recipe: the accelerator must have none")
        self.model, self.draw, self.recipe, self.loss = model, draw, recipe, loss
        self.average = None if recipe.ema is None else averaged(model, recipe.ema)
        self.step = 0
        self._seed = torch.initial_seed()
        self.engine: Any = accelerator or Alone()
        plain = torch.optim.AdamW(
            model.parameters(),
            recipe.lr,
            recipe.betas,
            weight_decay=recipe.weight_decay,
            fused=True,
        )
        if accelerator is None:
            self._wrapped, self.optimiser = model, plain
        else:
            self._wrapped, self.optimiser = accelerator.prepare(model, plain)
        self.sharded = sharding.sharded(model)
        if self.sharded and self.average is not None:
            sharding.spread(self.average.module, model)

    def run(self, until: int | None = None) -> Iterator[Record]:
        """Train up to step `until`, by default to the end; one record after every step.

        A loss that is not finite raises TrainingError with its step (within 50 steps on a GPU).
        """
        last = self.recipe.steps if until is None else min(until, self.recipe.steps)
        while self.step < last:
            rate = self.recipe.rate(self.step + 1)
            loss = self._update(rate)
            self.step += 1
            if self._looks(loss, last) and not bool(loss.isfinite().all()):
                raise TrainingError(
                    f"the loss is not finite at step {self.step}; try a lower learning rate"
                )
            yield Record(self.step, loss, rate)

    def _update(self, rate: float) -> Tensor:
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.zero_grad()
        self._drop_apart()
        parts = self._parts(self.draw(self.step + 1))
        losses = []
        for k, part in enumerate(parts, start=1):
            # gradients are exchanged once, with the last part
            waits = self.engine.no_sync(self._wrapped) if k < len(parts) else nullcontext()
            with waits:
                # an accelerator sets the precision of a forward pass itself, except under FSDP
                with self.engine.autocast() if self.sharded else nullcontext():
                    loss = self.loss(self._wrapped, part)
                # networks of a stack share no parameter, so the sum trains each by its own loss
                self.engine.backward(loss.sum() / len(parts))
            losses.append(loss.detach())
        if self.recipe.clip is not None:
            self.engine.clip_grad_norm_(self._wrapped.parameters(), self.recipe.clip)
        self.optimiser.step()
        if self.average is not None:
            self.average.update_parameters(self.model)
        found: Tensor = self.engine.reduce(torch.stack(losses).mean(0), "mean")
        return found

    def _drop_apart(self) -> None:
        """Give every process dropout of its own: all began with one seed, or one checkpoint."""
        process = self.engine.process_index
        if process:
            own = generator_for(self._seed, _DROPOUT, process, self.step)
            torch.manual_seed(own.initial_seed())

    def _parts(self, batch: Any) -> list[Any]:
        """This process's share of a global batch, in parts for accumulation."""
        shares, n = self.engine.num_processes, self.recipe.accumulate
        if shares * n == 1:
            return [self._placed(batch, slice(None))]
        size = share(len(batch[0]), shares, n)
        first = self.engine.process_index * n
        cuts = [slice(k * size, (k + 1) * size) for k in range(first, first + n)]
        return [self._placed(batch, cut) for cut in cuts]

    def _placed(self, batch: Any, cut: slice) -> Any:
        device = next(self.model.parameters()).device
        return type(batch)(*(None if x is None else x[cut].to(device) for x in batch))

    def _looks(self, loss: Tensor, last: int) -> bool:
        return loss.device.type == "cpu" or self.step % _CHECK_EVERY == 0 or self.step == last


def train(
    model: nn.Module,
    draw: Draw,
    steps: int,
    lr: float = 1e-3,
    decay: Decay = "constant",
    average: AveragedModel | None = None,
) -> Iterator[Record]:
    """Train a network, or a stack of them, in place by Adam; one record after every step.

    `draw` gives batch after batch. decay "cosine" lets the learning rate fall to 0 along a half
    cosine. A loss that is not finite raises TrainingError with its step.
    """
    trainer = Trainer(model, lambda step: draw(), Recipe(steps, lr, decay))
    trainer.average = average
    return trainer.run()
