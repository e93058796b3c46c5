"""The top of the fixed-noise spectrum of any network by Lanczos: no Jacobian, no kernel is formed.

On points x_1, ..., x_N of one noise level the operator of [P 89] is Theta / N on R^(N d), and

    Theta v = J (J^T v),    J^T v = sum_i J_i^T v_i

takes one product with J^T (reverse mode) and one with J (forward mode): about the time of two
gradients of the same batch and no more memory, where the kernel itself has (N d)^2 entries.
"""

from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor, nn
from torch.func import functional_call, jvp, vjp
from torch.nn.attention import SDPBackend, sdpa_kernel

from erdpaper.ntk.points import Points, checked

Direction = dict[str, Tensor]


class TopSpectrum(NamedTuple):
    """The largest eigenvalues of a fixed-noise kernel, and an estimate of their total.

    values: kappa_1 >= ... >= kappa_k, (k,), float64, as `Spectrum.values`.
    trace: the sum of all eigenvalues, of which the part beyond the k-th is estimated.
    trace_error: standard error of that estimate.
    size: how many eigenvalues can differ from 0, the smaller of N d and the number of parameters.
    """

    values: Tensor
    trace: float
    trace_error: float
    size: int

    @property
    def share(self) -> float:
        """The part of the trace in the k modes, within [0, 1]."""
        return float(self.values.sum()) / self.trace

    @property
    def effective_rank_bounds(self) -> tuple[float, float]:
        """Between what the `effective_rank` of the whole spectrum can be, taking the trace as true.

        Modes beyond the k-th hold the rest of the trace, none more than the k-th: entropy is least
        where they are as large as that one, and most where all of them are equal.
        """
        shares = self.values / self.trace
        rest = (1 - shares.sum()).clamp(min=0)
        known = torch.special.entr(shares).sum()
        least = known - torch.special.xlogy(rest, shares[-1].clamp(min=1e-300))
        others = max(self.size - len(shares), 1)
        most = known + torch.special.entr(rest) + torch.special.xlogy(rest, torch.tensor(others))
        return float(least.exp()), float(most.exp())


def top_spectrum(
    model: nn.Module,
    points: Points,
    k: int,
    generator: torch.Generator,
    label: Tensor | None = None,
    probes: int = 16,
    chunk: int | None = None,
) -> TopSpectrum:
    """The k largest eigenvalues of Theta / N on points (x, t) of one level [P 89], and its trace.

    The eigenvalues are those of `spectrum(empirical(model, points))`, for any module called
    model(x, t), or model(x, t, label) with `label` (N,). Points, parameters and modules as
    `empirical`. The model's dtype sets the precision; coefficients are float64. `generator` draws
    the start vector and `probes` random signs (Hutchinson), which see only what the k eigenvectors
    leave over. Of `chunk` points at a time, of all together without it, activations are held.
    ValueError on bad points or labels, k outside 1..N d - 1, or fewer than 2 probes.
    """
    kernel = _Kernel(model, points, label, chunk)
    n = kernel.size
    if not 1 <= k < n:
        raise ValueError(f"k must be from 1 to N d - 1 = {n - 1}, not {k}")
    if probes < 2:
        raise ValueError(f"a standard error takes at least 2 probes, not {probes}")
    start = torch.randn(n, generator=generator, dtype=torch.float64, device=generator.device)
    operator = LinearOperator((n, n), matvec=kernel.matvec, dtype="float64")
    accuracy = torch.finfo(kernel.x.dtype).eps
    ascending, basis = eigsh(operator, k, which="LA", v0=start.cpu().numpy(), tol=accuracy)
    values = torch.from_numpy(ascending).flip(0).clamp(min=0)
    rest = _hutchinson(kernel, torch.from_numpy(basis), generator, probes)
    return TopSpectrum(
        values,
        trace=float(values.sum() + rest.mean()),
        trace_error=float(rest.std()) / probes**0.5,
        size=min(n, sum(p.numel() for p in model.parameters())),
    )


def _hutchinson(
    kernel: "_Kernel", basis: Tensor, generator: torch.Generator, probes: int
) -> Tensor:
    """|J^T z|^2 / N for random signs z less their part in a basis (N d, k): (probes,)."""
    found = []
    for _ in range(probes):
        coin = torch.randint(2, (len(basis),), generator=generator, device=generator.device)
        z = 2.0 * coin.cpu().double() - 1
        z = z - basis @ (basis.T @ z)
        squares = [part.double().square().sum() for part in kernel.pull(z).values()]
        found.append(torch.stack(squares).sum().cpu() / len(kernel.x))
    return torch.stack(found)


class _Kernel:
    """Products with J and J^T on checked points; vectors (N d,) are float64 on the CPU."""

    def __init__(
        self, model: nn.Module, points: Points, label: Tensor | None, chunk: int | None
    ) -> None:
        self.model = model
        self.x, self.t = checked(model, points)
        count = len(self.x)
        if label is not None and label.shape != (count,):
            raise ValueError(f"labels must be one per point, ({count},), not {tuple(label.shape)}")
        if chunk is not None and chunk < 1:
            raise ValueError(f"a chunk holds at least 1 point, not {chunk}")
        self.label = None if label is None else label.to(self.x.device)
        step = chunk or count
        self.parts = [slice(k, k + step) for k in range(0, count, step)]
        self.parameters = {name: p.detach() for name, p in model.named_parameters()}
        with torch.no_grad():
            self.shape = self.predict(slice(0, 1), self.parameters).shape[1:]
        self.size = count * self.shape.numel()

    def predict(self, part: slice, parameters: Direction) -> Tensor:
        """The network's predictions at some points, (n, ...)."""
        inputs = [self.x[part], self.t[part]]
        if self.label is not None:
            inputs.append(self.label[part])
        # forward mode knows no other kind of attention
        with sdpa_kernel(SDPBackend.MATH):
            prediction: Tensor = functional_call(self.model, parameters, tuple(inputs))
        return prediction

    def pull(self, v: Tensor) -> Direction:
        """J^T v, parameter by parameter."""
        cotangents = v.to(self.x).view(-1, *self.shape)
        total = {name: torch.zeros_like(p) for name, p in self.parameters.items()}
        for part in self.parts:
            _, transposed, *_ = vjp(partial(self.predict, part), self.parameters)
            for name, more in transposed(cotangents[part])[0].items():
                total[name] += more
        return total

    def push(self, direction: Direction) -> Tensor:
        """J u, (N d,)."""
        moved = [
            jvp(partial(self.predict, part), (self.parameters,), (direction,))[1]
            for part in self.parts
        ]
        return torch.cat(moved).flatten().double().cpu()

    def matvec(self, v: NDArray[np.float64]) -> NDArray[np.float64]:
        """Theta v / N of a numpy vector."""
        moved = self.push(self.pull(torch.as_tensor(v))) / len(self.x)
        return moved.numpy()
