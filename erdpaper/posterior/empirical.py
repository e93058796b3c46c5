"""A training set as it is: the exact denoiser of a finite set of images, a softmax over all of them.

E[x_0 | x_t] = sum_i w_i x_i with w = softmax_i(-||x_t - alpha x_i||^2 / (2 sigma^2)). This is the truth of N points and not
of the law they came from: a query made from a training image finds that image again at low noise. Leaving the query's
own image out (`exclude`) gives the error of a valid denoiser on unseen data instead. In expectation the two enclose the
floor of the law: own image in <= floor <= own image out.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from erdpaper.posterior.base import Estimate, Moments, Posterior, check_points, levels
from erdpaper.targets import Coefficient, as_pair, expand

_LOGIT_BYTES = 1 << 28


class _Weighted(NamedTuple):
    """Softmax averages over the training set for a batch: mean (N, d), E||x_0||^2 and log-normaliser (N,), classes (N, C)."""

    mean: Tensor
    square: Tensor
    log_total: Tensor
    classes: Tensor


class Empirical(Posterior):
    """x_0 uniform on data (N, d), with optional integer labels (N,); queries are computed in their own dtype.

    Beside the data, memory holds one block of logits of at most 256 MiB, so 60,000 x 784 in float32 needs 0.5 GB.
    `exclude` (one training index per query, -1 for none) leaves that image out. sigma = 0 has no density: ValueError.
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
        self._classes = one_hot(self.labels).to(data.dtype)
        self._norms = self.data.double().square().sum(-1)
        self.dim = data.shape[1]

    def __len__(self) -> int:
        return len(self.data)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        index = torch.randint(len(self), (n,), generator=generator)
        return self.data[index] + self.centre

    def second_moment(self) -> Tensor:
        return self._norms.mean() + self.centre.double().square().sum()

    def _weighted(
        self, x_t: Tensor, alpha: Coefficient, sigma: Coefficient, exclude: Tensor | None
    ) -> _Weighted:
        x_t = check_points(x_t, self.dim)
        a, s = (expand(c, x_t).reshape(-1, 1).expand(len(x_t), 1) for c in as_pair(alpha, sigma))
        if bool((s == 0).any()):
            raise ValueError("a finite set of points has no density at sigma = 0")
        if exclude is not None and exclude.shape != x_t.shape[:1]:
            raise ValueError("exclude must hold one training index per query (-1 for none)")
        query = x_t - a * self.centre.to(x_t)
        data, norms, classes = (part.to(x_t) for part in (self.data, self._norms, self._classes))
        rows = max(1, _LOGIT_BYTES // (len(self) * x_t.element_size()))
        blocks = [
            self._block(
                query[i : i + rows],
                a[i : i + rows],
                s[i : i + rows],
                None if exclude is None else exclude[i : i + rows],
                (data, norms, classes),
            )
            for i in range(0, len(x_t), rows)
        ]
        return _Weighted(*(torch.cat(parts) for parts in zip(*blocks, strict=True)))

    def _block(
        self,
        query: Tensor,
        a: Tensor,
        s: Tensor,
        exclude: Tensor | None,
        training: tuple[Tensor, Tensor, Tensor],
    ) -> _Weighted:
        data, norms, classes = training
        # -||q - a x||^2 / 2 s^2 without its ||q||^2; in place, for there is room for one block only
        logits = (query * (a / s.square())) @ data.T
        logits.addcmul_((a / s).square(), norms, value=-0.5)
        if exclude is not None:
            out = exclude >= 0
            logits[out.nonzero().squeeze(-1), exclude[out]] = -math.inf
        top = logits.max(-1, keepdim=True).values
        weights = logits.sub_(top).exp_()
        total = weights.sum(-1, keepdim=True)
        mean = weights @ data / total
        log_total = (top + total.log()).squeeze(-1) - 0.5 * (query / s).square().sum(-1)
        return _Weighted(mean, weights @ norms / total.squeeze(-1), log_total, weights @ classes / total)

    def moments(
        self,
        x_t: Tensor,
        alpha: Coefficient,
        sigma: Coefficient,
        exclude: Tensor | None = None,
    ) -> Moments:
        """Posterior means and hidden variance; `exclude` leaves one training image per query out."""
        weighted = self._weighted(x_t, alpha, sigma, exclude)
        a, s = (expand(c, x_t) for c in as_pair(alpha, sigma))
        x0 = weighted.mean + self.centre.to(x_t)
        spread = (weighted.square - weighted.mean.square().sum(-1)).clamp(min=0)
        r2 = (a.square() + s.square()).reshape(-1)
        return Moments(x0, (x_t - a * x0) / s, r2 / s.square().reshape(-1) * spread)

    def score(self, x_t: Tensor, alpha: Coefficient, sigma: Coefficient) -> Tensor:
        return -self.moments(x_t, alpha, sigma).eps / expand(as_pair(alpha, sigma)[1], x_t)

    def log_density(self, x_t: Tensor, alpha: Coefficient, sigma: Coefficient) -> Tensor:
        log_total = self._weighted(x_t, alpha, sigma, None).log_total
        spread = expand(as_pair(alpha, sigma)[1], x_t).reshape(-1).square()
        return log_total - math.log(len(self)) - self.dim / 2 * (2 * math.pi * spread).log()

    def class_probabilities(
        self,
        x_t: Tensor,
        alpha: Coefficient,
        sigma: Coefficient,
        exclude: Tensor | None = None,
    ) -> Tensor:
        """P(label | x_t), (N, C), from the training labels."""
        return self._weighted(x_t, alpha, sigma, exclude).classes

    def hidden_variance(
        self,
        alpha: Coefficient,
        sigma: Coefficient,
        n: int = 1024,
        generator: torch.Generator | None = None,
    ) -> Estimate:
        """Monte Carlo over n draws of x_t from the training set (own image in), with its standard error."""
        a, s, shape = levels(alpha, sigma)
        generator = torch.Generator().manual_seed(0) if generator is None else generator
        rows = []
        for x, y in zip(a.tolist(), s.tolist(), strict=True):
            x0 = self.sample(n, generator)
            x_t = x * x0 + y * torch.randn(x0.shape, generator=generator, dtype=x0.dtype)
            draws = self.moments(x_t, x, y).hidden_variance.double()
            rows.append((draws.mean(), draws.std() / n**0.5))
        value, error = torch.tensor(rows, dtype=torch.float64).T
        return Estimate(value.reshape(shape), error.reshape(shape))
