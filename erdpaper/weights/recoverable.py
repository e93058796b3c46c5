"""Weights from measured recoverability, which the ERD score stands in for [P 3.4, 5].

What of a target y can be recovered from x_t is `rho_y = sqrt(E||E[y | x_t]||^2 / d)`, and by the
decomposition of the loss [P Lemma 3.2] `rho_y^2 = E||y||^2 / d - floor / d`. So it can be taken
from a posterior (`from_curve`), or while training from the loss, which a good network brings close
to the floor (`OnlineRecoverability`).
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from erdpaper.schedules import Discrete, Schedule, Time
from erdpaper.schedules.base import check_time
from erdpaper.targets import Coefficient, Target, as_pair, get
from erdpaper.weights.densities import Density, on_table, training_times
from erdpaper.weights.raw import Weight

# times per run of the normalising sum on a continuous schedule
_GRID = 1 << 12


def from_curve(logsnr: Tensor, value: Tensor) -> Weight:
    """A raw weight that follows a measured curve, `value` (L,) >= 0 at rising `logsnr` (L,).

    Linear in log-SNR between the points, constant beyond them; for instance `rms` of a
    `posterior.RecoverableSignal`. The curve is that of one target, and the weight cannot know
    which: use it with that target alone.
    """
    logsnr, value = logsnr.detach().double(), value.detach().double()
    if logsnr.ndim != 1 or logsnr.shape != value.shape or len(logsnr) < 2:
        raise ValueError("a curve needs logsnr and value of one shape (L,) with L >= 2")
    if not bool(logsnr.isfinite().all() and (logsnr.diff() > 0).all()):
        raise ValueError("the log-SNR of a curve must be finite and rise")
    if not bool((value.isfinite() & (value >= 0)).all() and (value > 0).any()):
        raise ValueError("the values of a curve must be finite, at least 0 and not all 0")

    def measured(alpha: Coefficient, sigma: Coefficient, target: str | Target) -> Tensor:
        get(target)
        alpha, sigma = as_pair(alpha, sigma)
        level = 2 * (alpha.double().log() - sigma.double().log())
        return _interpolate(level, logsnr.to(level.device), value.to(level.device)).to(alpha)

    return measured


class _Grid(NamedTuple):
    """Times that stand for training: their bin, energy E||y||^2 / d and probability, each (G,)."""

    t: Tensor
    bin: Tensor
    energy: Tensor
    share: Tensor


class OnlineRecoverability:
    """t -> weight sqrt(max(E||y||^2 / d - loss(t), 0)), from the loss as training goes on.

    `update` keeps, in `bins` bins of t of equal width (on a table, of equally many nodes), a
    running mean of the squared error: each newer sample of its bin makes an old one count 1 - rate
    times as much, and a young mean is nearly the plain one. `loss(t)` is linear between the bins'
    mean times.
    `second_moment` is E||x_0||^2 / d of the data as trained on (1 if standardised), x_0 and eps
    being independent: E||y||^2 / d = c_x^2 second_moment + c_eps^2.

    The weights have mean 1 over the t that training draws (uniform, or by `density`), for now: a
    bin without a sample has weight 1, and so has every t while no bin has a loss below its energy.
    A loss above the floor makes the weight too small, and 0 where the network is no better than
    answering 0: begin with some updates under another weight. Where nothing is recoverable, an
    error s of a bin's mean leaves about sqrt(s) before the scaling to mean 1.

    State is kept in float64 on the CPU and no gradient flows, so equal updates give equal bits.
    """

    def __init__(
        self,
        schedule: Schedule,
        target: str | Target,
        second_moment: float,
        bins: int = 64,
        rate: float = 2e-3,
        density: Density | None = None,
    ) -> None:
        most = schedule.T if isinstance(schedule, Discrete) else _GRID
        if not 1 <= bins <= most:
            raise ValueError(f"bins must lie in 1..{most} on {schedule!r}, got {bins}")
        if not 0 < rate < 1:
            raise ValueError(f"rate must lie between 0 and 1, got {rate}")
        if not 0 < second_moment < torch.inf:
            raise ValueError(f"second_moment must be positive and finite, got {second_moment}")
        self.schedule, self.target, self.bins, self.rate = schedule, get(target), bins, rate
        self.second_moment = second_moment
        self._grid = self._make_grid(density)
        self._centres = _bin_means(self._grid.t, self._grid.bin, bins)
        # running sums of errors and of ones: their ratio is the mean, free of the empty start
        self._error = torch.zeros(bins, dtype=torch.float64)
        self._count = torch.zeros(bins, dtype=torch.float64)
        self._scale = 1.0

    @torch.no_grad()
    def update(self, t: Time, squared_error: Tensor) -> None:
        """Take in times t (...) and the UNWEIGHTED error ||f - y||^2 / d of each sample there.

        Every sample of one call counts alike. Brings the numbers to the CPU.
        """
        t = check_time(t).detach().cpu().flatten()
        error = squared_error.detach().double().cpu().flatten()
        if t.shape != error.shape:
            raise ValueError(f"one error per time is needed, got {len(error)} for {len(t)}")
        if not bool((error.isfinite() & (error >= 0)).all()):
            raise ValueError("squared errors must be finite and at least 0")
        where = self._bin(t)
        count = torch.zeros_like(self._count).index_add_(0, where, torch.ones_like(error))
        total = torch.zeros_like(self._error).index_add_(0, where, error)
        keep = (1 - self.rate) ** count
        self._error = keep * self._error + (1 - keep) * total / count.clamp(min=1)
        self._count = keep * self._count + (1 - keep)
        self._rescale()

    @torch.no_grad()
    def __call__(self, t: Time) -> Tensor:
        """The weights at times t, of their shape and dtype and on their device."""
        t = check_time(t)
        here = t.detach().cpu().double()
        alpha, sigma = self.schedule(here)
        seen = self._count[self._bin(here)] > 0
        weight = self._amplitude(here, self._energy(alpha, sigma)) / self._scale
        untouched = torch.ones_like(weight)
        return torch.where(seen & (self._scale > 0), weight, untouched).to(t)

    def loss(self) -> tuple[Tensor, Tensor]:
        """The bins' mean times and the running mean of the error there, nan without a sample."""
        return self._centres.clone(), self._error / self._count

    def state_dict(self) -> dict[str, Tensor]:
        """The running sums, two float64 tensors (bins,)."""
        return {"error": self._error.clone(), "count": self._count.clone()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a `state_dict` of the same schedule, target and bins, bit for bit."""
        if set(state) != {"error", "count"} or any(
            part.shape != (self.bins,) or part.dtype != torch.float64 for part in state.values()
        ):
            raise ValueError(f"a state holds error and count, float64 of shape ({self.bins},)")
        self._error, self._count = (state[name].cpu().clone() for name in ("error", "count"))
        self._rescale()

    def _energy(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        c_x, c_eps = self.target.coefficients(alpha, sigma)
        return c_x.square() * self.second_moment + c_eps.square()

    def _bin(self, t: Tensor) -> Tensor:
        if isinstance(self.schedule, Discrete):
            node = (t.double() * self.schedule.T).round().long() - 1
            return node.clamp(min=0) * self.bins // self.schedule.T
        return (t.double() * self.bins).long().clamp(max=self.bins - 1)

    def _make_grid(self, density: Density | None) -> _Grid:
        t = training_times(self.schedule)
        if isinstance(self.schedule, Discrete):
            density = None if density is None else on_table(density, self.schedule)
        else:
            count = self.bins * (_GRID // self.bins)
            t = (torch.arange(count, dtype=torch.float64) + 0.5) / count
        mass = torch.ones_like(t) if density is None else density(t)
        return _Grid(t, self._bin(t), self._energy(*self.schedule(t)), mass / mass.sum())

    def _amplitude(self, t: Tensor, energy: Tensor) -> Tensor:
        """sqrt(max(E||y||^2 / d - loss, 0)), by the bins that have a sample."""
        seen = self._count > 0
        if not bool(seen.any()):
            return torch.zeros_like(energy)
        loss = _interpolate(t, self._centres[seen], (self._error / self._count)[seen])
        return (energy - loss).clamp(min=0).sqrt()

    def _rescale(self) -> None:
        seen = self._count[self._grid.bin] > 0
        share = self._grid.share * seen
        amplitude = self._amplitude(self._grid.t, self._grid.energy)
        self._scale = float((share * amplitude).sum() / share.sum())


def _interpolate(x: Tensor, nodes: Tensor, values: Tensor) -> Tensor:
    """Linear between rising nodes, constant beyond them."""
    if len(nodes) == 1:
        return values.expand(x.shape)
    x = x.clamp(nodes[0], nodes[-1])
    cell = (torch.searchsorted(nodes, x.contiguous()) - 1).clamp(0, len(nodes) - 2)
    share = (x - nodes[cell]) / (nodes[cell + 1] - nodes[cell])
    return values[cell] + share * (values[cell + 1] - values[cell])


def _bin_means(values: Tensor, where: Tensor, bins: int) -> Tensor:
    count = torch.bincount(where, minlength=bins)
    return torch.zeros(bins, dtype=values.dtype).index_add_(0, where, values) / count
