"""A training set as it is: the exact denoiser of a finite set of images, a softmax over them.

E[x_0 | x_t] = sum_i w_i x_i with w = softmax_i(-||x_t - alpha x_i||^2 / (2 sigma^2)). This is the
truth of N points and not of the law they came from: a query made from a training image finds that
image again at low noise. Leaving the query's own image out (`exclude`) gives the error of a valid
denoiser on unseen data instead. In expectation the two enclose the floor of the law:
own image in <= floor <= own image out.
"""

import math
from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from erdpaper.posterior.base import (
    Estimate,
    Moments,
    Posterior,
    check_points,
    levels,
    normal,
    target_variance,
)
from erdpaper.posterior.gaussian import Gaussian
from erdpaper.targets import X0, Coefficient, Target, as_pair, expand, get

_BLOCK_BYTES = 1 << 27
# weights under e^-72 of the largest are lost in rounding; exp and matrix products of the denormal
# numbers that they would be are many times slower
_LEAST_LOGIT = -72.0


class _Block(NamedTuple):
    """R queries against the whole training set, both centred.

    query (R, d), a and s (R, 1); weights (R, N) in units of each query's largest, total (R, 1)
    their sums, and nearest (R, d) the training point with the largest.
    """

    query: Tensor
    a: Tensor
    s: Tensor
    weights: Tensor
    total: Tensor
    nearest: Tensor

    def average(self, values: Tensor, least: float = 0.0) -> Tensor:
        """Posterior means of values (N, C) given at the training points, (R, C).

        Points whose weight is at most `least` for every query are left out.
        """
        few = (self.weights > least).any(0).nonzero().squeeze(-1) if least else ()
        if 0 < 2 * len(few) < len(values):
            return self.weights[:, few] @ values[few] / self.total
        return self.weights @ values / self.total

    def log_sum(self) -> Tensor:
        """log sum_i exp(-||q - a x_i||^2 / 2 s^2), (R,)."""
        distance = (self.query - self.a * self.nearest) / self.s
        return self.total.log().squeeze(-1) - 0.5 * distance.square().sum(-1)

    def spread(self, mean: Tensor, norms: Tensor) -> Tensor:
        """The variance sum_i w_i ||x_i - mean||^2, (R,)."""
        square = self.average(norms[:, None]).squeeze(-1)
        spread = square - mean.square().sum(-1)
        # the difference has no digits left where few images carry all weight
        narrow = (spread < 0.01 * square) & (self.a.squeeze(-1) > 0)
        if bool(narrow.any()):
            spread = torch.where(narrow, self._narrow_spread(mean), spread)
        return spread.clamp(min=0)

    def _narrow_spread(self, mean: Tensor) -> Tensor:
        # sum_i w_i ||q - a x_i||^2 taken from the logits, less ||q - a mean||^2, both relative to
        # the nearest point, so that nothing large is subtracted
        few = torch.split(self.weights, 16)  # rows, which stay in the processor's cache
        entropy = -torch.cat([w.log().mul_(w).sum(-1, keepdim=True) for w in few]) / self.total
        step, rest = self.a * (self.nearest - mean), self.query - self.a * mean
        excess = 2 * self.s.square() * entropy + (step * (step - 2 * rest)).sum(-1, keepdim=True)
        return (excess / self.a.square()).squeeze(-1)


class Empirical(Posterior):
    """x_0 uniform on data (N, d), with optional integer labels (N,); queries keep their dtype.

    Beside the data and its centred copy, memory holds a few blocks of at most 128 MiB: 60,000 x 784
    in float32 needs 0.9 GB in all. `exclude` (one training index per query, -1 for none) leaves
    that image out. sigma = 0 has no density: ValueError. Logits are right to about
    eps ||x_0||^2 (alpha / sigma)^2 with eps of the dtype: in float32, images nearer to each other
    than sigma are told apart well for sigma / alpha above 0.1.
    """

    def __init__(self, data: Tensor, labels: Tensor | None = None) -> None:
        if data.ndim != 2 or len(data) < 2 or not data.is_floating_point():
            raise ValueError("empirical data must be a floating tensor of shape (N, d) with N >= 2")
        if labels is not None and (labels.shape != data.shape[:1] or bool((labels < 0).any())):
            raise ValueError("labels must be one integer of at least 0 per training point")
        self.centre = data.mean(0)
        # centred, so that the large common part does not eat the digits of the distances
        self.data = data - self.centre
        self.labels = torch.zeros(len(data), dtype=torch.long) if labels is None else labels.long()
        self._classes = one_hot(self.labels).to(data)
        # in pieces, so that no float64 copy of the data is made
        pieces = [rows.double().square().sum(-1) for rows in torch.split(self.data, 4096)]
        self._norms = torch.cat(pieces)
        self.dim = data.shape[1]

    def __len__(self) -> int:
        return len(self.data)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """n training points drawn with replacement, (n, d)."""
        device = torch.device("cpu") if generator is None else generator.device
        index = torch.randint(len(self), (n,), generator=generator, device=device)
        return self.data[index.to(self.data.device)] + self.centre

    def second_moment(self) -> Tensor:
        """E ||x_0||^2 over the training set, float64."""
        return self._norms.mean() + self.centre.double().square().sum()

    @cached_property
    def gaussian(self) -> Gaussian:
        """The Gaussian with the mean and covariance of the data, float64."""
        return Gaussian.fitted((self.data + self.centre).double())

    def _blocks(
        self, x_t: Tensor, alpha: Coefficient, sigma: Coefficient, exclude: Tensor | None
    ) -> Iterator[_Block]:
        x_t = check_points(x_t, self.dim)
        a, s = (expand(c, x_t).reshape(-1, 1).expand(len(x_t), 1) for c in as_pair(alpha, sigma))
        if bool((s == 0).any()):
            raise ValueError("a finite set of points has no density at sigma = 0")
        if exclude is not None and (
            exclude.shape != x_t.shape[:1] or bool(((exclude < -1) | (exclude >= len(self))).any())
        ):
            raise ValueError("exclude must hold one training index per query (-1 for none)")
        query = x_t - a * self.centre.to(x_t)
        data, norms = self.data.to(x_t), self._norms.to(x_t)
        rows = max(1, _BLOCK_BYTES // (len(self) * x_t.element_size()))
        for i in range(0, len(x_t), rows):
            part = slice(i, i + rows)
            out = None if exclude is None else exclude[part].to(x_t.device)
            yield _block(query[part], a[part], s[part], data, norms, out)

    def moments(
        self,
        x_t: Tensor,
        alpha: Coefficient,
        sigma: Coefficient,
        exclude: Tensor | None = None,
    ) -> Moments:
        """Posterior means and hidden variance; `exclude` leaves out one image per query."""
        data, norms = self.data.to(x_t), self._norms.to(x_t)
        means, spreads = [], []
        for block in self._blocks(x_t, alpha, sigma, exclude):
            means.append(block.average(data))
            spreads.append(block.spread(means[-1], norms))
        a, s = (expand(c, x_t) for c in as_pair(alpha, sigma))
        x0 = torch.cat(means) + self.centre.to(x_t)
        ratio = (a.square() + s.square()) / s.square()
        return Moments(x0, (x_t - a * x0) / s, ratio.reshape(-1) * torch.cat(spreads))

    def endpoints(
        self, x_t: Tensor, alpha: Coefficient, sigma: Coefficient
    ) -> tuple[Tensor, Tensor]:
        """Posterior means of x_0 and eps, (N, d) each, without a look at the variance."""
        x0 = self.posterior_mean(x_t, alpha, sigma)
        return x0, X0.to_eps(x0, x_t, alpha, sigma)

    def left_out(
        self, x_t: Tensor, alpha: Coefficient, sigma: Coefficient, own: Tensor
    ) -> tuple[Tensor, Tensor]:
        """E[x_0 | x_t] without each query's own image, (N, d), and tr Cov(u2 | x_t) with it, (N,).

        own: one training index per query. The same as `moments` with and without `exclude`, in
        half of the time: own image and others are put together by how likely each made x_t.
        """
        data, norms = self.data.to(x_t), self._norms.to(x_t)
        means, spreads, done = [], [], 0
        for block in self._blocks(x_t, alpha, sigma, own):
            mine = data[own[done : done + len(block.query)].to(x_t.device)]
            done += len(mine)
            means.append(block.average(data, torch.finfo(x_t.dtype).eps / len(data)))
            distance = (block.query - block.a * mine) / block.s
            odds = -0.5 * distance.square().sum(-1) - block.log_sum()
            apart = (mine - means[-1]).square().sum(-1)
            within = block.spread(means[-1], norms)
            spreads.append((-odds).sigmoid() * (within + odds.sigmoid() * apart))
        a, s = (expand(c, x_t) for c in as_pair(alpha, sigma))
        ratio = (a.square() + s.square()) / s.square()
        return torch.cat(means) + self.centre.to(x_t), ratio.reshape(-1) * torch.cat(spreads)

    def posterior_mean(
        self,
        x_t: Tensor,
        alpha: Coefficient,
        sigma: Coefficient,
        target: str | Target = X0,
        exclude: Tensor | None = None,
    ) -> Tensor:
        """E[y | x_t], (N, d), of x_0 unless another target is named; without the variance."""
        data = self.data.to(x_t)
        blocks = self._blocks(x_t, alpha, sigma, exclude)
        x0 = torch.cat([block.average(data) for block in blocks]) + self.centre.to(x_t)
        return get(target).make(x0, X0.to_eps(x0, x_t, alpha, sigma), alpha, sigma)

    def covariance_trace(
        self,
        x_t: Tensor,
        alpha: Coefficient,
        sigma: Coefficient,
        target: str | Target = X0,
        exclude: Tensor | None = None,
    ) -> Tensor:
        """tr Cov(y | x_t), (N,), of x_0 unless another target is named."""
        return target_variance(self.moments(x_t, alpha, sigma, exclude), alpha, sigma, target)

    def score(
        self,
        x_t: Tensor,
        alpha: Coefficient,
        sigma: Coefficient,
        exclude: Tensor | None = None,
    ) -> Tensor:
        """The gradient of log q at x_t, (N, d): -E[eps | x_t] / sigma [T 2.30]."""
        eps = self.posterior_mean(x_t, alpha, sigma, "eps", exclude)
        return -eps / expand(as_pair(alpha, sigma)[1], x_t)

    def log_density(
        self,
        x_t: Tensor,
        alpha: Coefficient,
        sigma: Coefficient,
        exclude: Tensor | None = None,
    ) -> Tensor:
        """log q(x_t), (N,), natural logarithm: equal Gaussians of standard deviation sigma."""
        log_sum = torch.cat([b.log_sum() for b in self._blocks(x_t, alpha, sigma, exclude)])
        spread = expand(as_pair(alpha, sigma)[1], x_t).reshape(-1).square()
        left = 0 if exclude is None else (exclude >= 0).to(log_sum)
        count = torch.full_like(log_sum, len(self)) - left
        return log_sum - count.log() - self.dim / 2 * (2 * math.pi * spread).log()

    def class_probabilities(
        self,
        x_t: Tensor,
        alpha: Coefficient,
        sigma: Coefficient,
        exclude: Tensor | None = None,
    ) -> Tensor:
        """P(label | x_t), (N, C), from the training labels."""
        classes = self._classes.to(x_t)
        blocks = self._blocks(x_t, alpha, sigma, exclude)
        return torch.cat([block.average(classes) for block in blocks])

    def hidden_variance(
        self,
        alpha: Coefficient,
        sigma: Coefficient,
        n: int = 1024,
        generator: torch.Generator | None = None,
    ) -> Estimate:
        """Monte Carlo over n draws of x_t (own image in), with its standard error; float64.

        All noise levels share the same n images and noises, so a level's value does not depend on
        what other levels are asked for.
        """
        a, s, shape = levels(alpha, sigma)
        generator = torch.Generator().manual_seed(0) if generator is None else generator
        x0 = self.sample(n, generator)
        eps = normal((n, self.dim), x0, generator)
        rows = []
        for x, y in zip(a.tolist(), s.tolist(), strict=True):
            draws = self.moments(x * x0 + y * eps, x, y).hidden_variance.double()
            rows.append((float(draws.mean()), float(draws.std()) / n**0.5))
        value, error = torch.tensor(rows, dtype=torch.float64).T
        return Estimate(value.reshape(shape), error.reshape(shape))


def _block(
    query: Tensor, a: Tensor, s: Tensor, data: Tensor, norms: Tensor, exclude: Tensor | None
) -> _Block:
    # -||q - a x||^2 / 2 s^2 without its ||q||^2; in place, for a block is large
    logits = (query * (a / s.square())) @ data.T
    logits.addcmul_((a / s).square(), norms, value=-0.5)
    if exclude is not None:
        asked = (exclude >= 0).nonzero().squeeze(-1)
        logits[asked, exclude[asked]] = -math.inf
    top, best = logits.max(-1, keepdim=True)
    weights = logits.sub_(top).clamp_(min=_LEAST_LOGIT).exp_()
    return _Block(query, a, s, weights, weights.sum(-1, keepdim=True), data[best.squeeze(-1)])
