"""Prediction targets y = c_x x_0 + c_eps eps and the way from one to another [P 2.1; T 2.26, 2.30].

Two coordinates explain all of them. Let r^2 = alpha^2 + sigma^2 and rotate (x_0, eps) into

    u1 = (alpha x_0 + sigma eps) / r = x_t / r      what the network is shown,
    u2 = (sigma x_0 - alpha eps) / r                what it is not shown (on a VP path: -v).

Then y = observed * u1 + hidden * u2 with observed = (c_x alpha + c_eps sigma) / r and
hidden = (c_x sigma - c_eps alpha) / r: given x_t, any two targets differ by a known shift and a
known factor, and only u2 has to be guessed.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

Coefficient = Tensor | float


def expand(coefficient: Coefficient, like: Tensor) -> Tensor:
    """A scalar or per-sample (N,) coefficient, shaped to multiply `like` (N, ...), in its dtype."""
    if not like.is_floating_point():
        raise TypeError(f"samples must be floating-point tensors, not {like.dtype}")
    value = torch.as_tensor(coefficient, dtype=like.dtype, device=like.device)
    if value.ndim == 0:
        return value
    if value.shape != like.shape[:1]:
        shapes = f"{tuple(value.shape)} for samples {tuple(like.shape)}"
        raise ValueError(f"alpha and sigma must be scalars or one per sample, got {shapes}")
    return value.reshape(-1, *[1] * (like.ndim - 1))


def as_pair(alpha: Coefficient, sigma: Coefficient) -> tuple[Tensor, Tensor]:
    """alpha and sigma as floating tensors of one dtype and broadcast shape.

    A plain number takes dtype and device from the other one; two plain numbers become float64.
    """
    tensors = [c for c in (alpha, sigma) if isinstance(c, Tensor)]
    like = tensors[0] if tensors else torch.zeros((), dtype=torch.float64)
    dtype = torch.promote_types(like.dtype, tensors[-1].dtype) if tensors else like.dtype
    if not dtype.is_floating_point:
        raise TypeError(f"alpha and sigma must be floating-point, not {dtype}")
    a, s = (torch.as_tensor(c, dtype=dtype, device=like.device) for c in (alpha, sigma))
    if not bool(((a >= 0) & (s >= 0) & (a + s > 0) & (a + s < math.inf)).all()):
        raise ValueError("alpha and sigma must be finite, at least 0 and not both 0")
    a, s = torch.broadcast_tensors(a, s)
    return a, s


@dataclass(frozen=True)
class Target:
    """A target y = c_x x_0 + c_eps eps; `alpha` and `sigma` are scalars or one per sample (N,)."""

    name: str
    formula: str
    _c: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] = field(repr=False)

    def coefficients(self, alpha: Coefficient, sigma: Coefficient) -> tuple[Tensor, Tensor]:
        """(c_x, c_eps), each of the broadcast shape of alpha and sigma [P 2.1]."""
        return self._c(*as_pair(alpha, sigma))

    def split(self, alpha: Coefficient, sigma: Coefficient) -> tuple[Tensor, Tensor]:
        """(observed, hidden): y = observed x_t / r + hidden u2, see the module docstring."""
        alpha, sigma = as_pair(alpha, sigma)
        c_x, c_eps = self._c(alpha, sigma)
        r = torch.hypot(alpha, sigma)
        return (c_x * alpha + c_eps * sigma) / r, (c_x * sigma - c_eps * alpha) / r

    def make(self, x0: Tensor, eps: Tensor, alpha: Coefficient, sigma: Coefficient) -> Tensor:
        """The target for data x0 and noise eps, both of shape (N, ...)."""
        c_x, c_eps = self.coefficients(alpha, sigma)
        return expand(c_x, x0) * x0 + expand(c_eps, x0) * eps

    def to_x0(self, y: Tensor, x_t: Tensor, alpha: Coefficient, sigma: Coefficient) -> Tensor:
        """The x_0 that y and x_t imply [T 2.26, 3.1]; for eps not where alpha = 0 (ValueError)."""
        if self.name == "x0":
            return y
        missing = "x0 where alpha = 0: x_t holds no signal there"
        _, sigma, _, c_eps, bottom = self._system(alpha, sigma, missing)
        return (expand(c_eps, x_t) * x_t - expand(sigma, x_t) * y) / expand(bottom, x_t)

    def to_eps(self, y: Tensor, x_t: Tensor, alpha: Coefficient, sigma: Coefficient) -> Tensor:
        """The eps that y and x_t imply; x0 gives none where sigma = 0 (ValueError)."""
        if self.name == "eps":
            return y
        missing = "eps where sigma = 0: x_t holds no noise there"
        alpha, _, c_x, _, bottom = self._system(alpha, sigma, missing)
        return (expand(alpha, x_t) * y - expand(c_x, x_t) * x_t) / expand(bottom, x_t)

    def _system(
        self, alpha: Coefficient, sigma: Coefficient, missing: str
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """alpha, sigma, c_x, c_eps and their determinant, as x_t and y are linear in (x_0, eps).

        Where it is 0, ValueError: this target does not determine what is `missing`.
        """
        alpha, sigma = as_pair(alpha, sigma)
        c_x, c_eps = self._c(alpha, sigma)
        determinant = alpha * c_eps - sigma * c_x
        if bool((determinant == 0).any()):
            raise ValueError(f"{self.name} does not determine {missing}")
        return alpha, sigma, c_x, c_eps, determinant

    def to_score(self, y: Tensor, x_t: Tensor, alpha: Coefficient, sigma: Coefficient) -> Tensor:
        """The score -eps / sigma that y and x_t imply [T 2.30]; not where sigma = 0: ValueError."""
        alpha, sigma = as_pair(alpha, sigma)
        if bool((sigma == 0).any()):
            raise ValueError("no target determines the score where sigma = 0: it is -eps / sigma")
        return -self.to_eps(y, x_t, alpha, sigma) / expand(sigma, x_t)


X0 = Target("x0", "x_0", lambda a, s: (torch.ones_like(a), torch.zeros_like(a)))
EPS = Target("eps", "eps", lambda a, s: (torch.zeros_like(a), torch.ones_like(a)))
V = Target("v", "alpha eps - sigma x_0", lambda a, s: (-s, a))
U = Target("u", "eps - x_0", lambda a, s: (-torch.ones_like(a), torch.ones_like(a)))

ALL = (X0, EPS, V, U)


def get(target: str | Target) -> Target:
    """The target of this name ("x0", "eps", "v" or "u"), or the target itself."""
    if isinstance(target, Target):
        return target
    for known in ALL:
        if known.name == target:
            return known
    raise ValueError(
        f"unknown target {target!r}; use one of {', '.join(known.name for known in ALL)}"
    )
