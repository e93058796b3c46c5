"""The ways of allotting training effort to noise levels that the experiments on images compare.

Each row is a weight, a density of t to draw from, or both: at t drawn by p the loss has weight w
with mean 1 under p. `recoverable` follows the recoverable signal of the training data themselves,
`online` estimates it from the loss while training goes on. `TRUNCATED` are ways that draw a
smallest time for each batch; a published row at full scale has one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from erdpaper import training, weights
from erdpaper.posterior import RecoverableSignal
from erdpaper.schedules import Schedule
from erdpaper.targets import get
from erdpaper.training import Batch, Objective, SoftTruncation
from erdpaper.weights import Allocation, Weight, densities

# the share of a run during which the online estimate only looks on
_ONLINE_START = 0.1
# a bin sees about one sample a step and remembers a twentieth of the run
_ONLINE_MEMORY = 20


@dataclass(frozen=True)
class Weighting:
    """fn and allocation as `weights.normalised` takes them; density "uniform", "edm", "logit"."""

    fn: Weight
    allocation: Allocation = "t"
    density: str = "uniform"


PRACTICE = ("edm", "sigmoid", "logit-normal")
MEASURED = ("recoverable", "online")
WEIGHTINGS: dict[str, Weighting] = {
    "uniform":      Weighting(weights.uniform),
    "min-snr":      Weighting(weights.min_snr),
    "p2":           Weighting(weights.p2),
    "erd":          Weighting(weights.erd),
    "erd-logsnr":   Weighting(weights.erd, "logsnr"),
    "edm":          Weighting(partial(weights.edm, data_std=1.0), "t", "edm"),
    "sigmoid":      Weighting(weights.sigmoid, "logsnr"),
    "logit-normal": Weighting(weights.uniform, "t", "logit"),
}  # fmt: skip
NAMES = (*WEIGHTINGS, *MEASURED)
# Soft Truncation by its weight of the score: sigma^2, or g^2 (likelihood)
TRUNCATED = {"soft-truncation": False, "soft-truncation-nll": True}
# EDM's mean of ln k belongs to data of standard deviation 0.5; ours have 1
EDM_MEAN = -1.2 + 0.6931471805599453


class OnlineLoss:
    """The weighted loss whose weight is estimated from the unweighted loss as training goes on."""

    def __init__(self, online: weights.OnlineRecoverability, first: int) -> None:
        self.online, self.first, self.seen = online, first, 0

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        """The mean over the batch; the first calls are unweighted."""
        error = training.squared_error(model, batch)
        # a loss that is no number stops the training, which says so better
        if bool(error.isfinite().all()):
            self.online.update(batch.t, error)
        self.seen += 1
        weight = self.online(batch.t) if self.seen > self.first else torch.ones_like(error)
        loss: Tensor = (weight * error).mean()
        return loss

    def state_dict(self) -> dict[str, Tensor]:
        """The running sums and the number of calls."""
        return self.online.state_dict() | {"seen": torch.tensor(self.seen)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from there."""
        rest = dict(state)
        self.seen = int(rest.pop("seen"))
        self.online.load_state_dict(rest)


def objective(
    name: str, schedule: Schedule, target: str, signal: RecoverableSignal | None = None
) -> Objective:
    """What a row of the table asks of a network; the times of a batch are stratified.

    `recoverable` needs the training data's `signal`.
    """
    if name == "online":
        return Objective(schedule, target, stratified=True)
    if name == "recoverable":
        if signal is None:
            raise ValueError("the weight 'recoverable' needs the recoverable signal of the data")
        weight = weights.normalised(signal.rms, schedule, target)
        return Objective(schedule, target, weight, stratified=True)
    if name in TRUNCATED:
        if get(target).name != "eps":
            raise ValueError(f"the weight {name!r} is one of the error of eps, not of {target}")
        truncation = SoftTruncation(schedule, TRUNCATED[name])
        return Objective(schedule, target, stratified=True, truncation=truncation)
    if name not in WEIGHTINGS:
        raise ValueError(f"unknown weight {name!r}; use one of {', '.join((*NAMES, *TRUNCATED))}")
    row = WEIGHTINGS[name]
    density = _density(row.density, schedule)
    weight = weights.normalised(row.fn, schedule, target, row.allocation, density=density)
    times: dict[str, Any] = {}
    if density is not None:
        times = {"times": training.density_times(density)}
    return Objective(schedule, target, weight, stratified=True, **times)


def effort(asked: Objective, t: Tensor) -> Tensor:
    """Weight times density of drawing, (N,): how much of the training goes to times t."""
    if asked.truncation is not None:
        return asked.truncation.effort(t)
    weight = asked.weight(t)
    density = getattr(asked.weight, "density", None)
    return weight if density is None else weight * density(t)


def loss(name: str, schedule: Schedule, target: str, steps: int) -> training.Loss:
    """The loss of a row: that of the objective, or with the online estimate."""
    if name != "online":
        return training.loss_of
    # latents are scaled so that E||x_0||^2 / d = 1
    online = weights.OnlineRecoverability(
        schedule, target, 1.0, rate=min(_ONLINE_MEMORY / steps, 0.5)
    )
    return OnlineLoss(online, round(_ONLINE_START * steps))


def _density(name: str, schedule: Schedule) -> weights.Density | None:
    if name == "edm":
        return densities.edm(schedule, EDM_MEAN)
    return densities.logit_normal() if name == "logit" else None
