"""One noise level in the eigenbasis of its frozen kernel [P Thm 3.8, D.4].

With eigenpairs (kappa_j, phi_j) of the fixed-noise kernel in L2(q_lambda), the coefficients
a_j = <r, phi_j> of the residual r = f - f* follow, under the fixed-noise surrogate [P 87],

    d a_j / d tau = -M kappa_j a_j + eta_j                                            [P 98]
    eta_j = <-M(lambda_tau) Theta_0((., lambda), (x_tau, lambda_tau)) xi_tau, phi_j>,

and the excess M / 2 sum_j a_j^2 lies below the mode-wise bound [P 10, 92] for every gamma > 0. A
forcing that is held over steps of length h, as in a run of SGD, makes both of them exact
recursions: nothing here is integrated numerically. L2(q_lambda) is the mean over the N points of
the spectrum; all is float64.
"""

import torch
from torch import Tensor

from erdpaper.ntk import Spectrum


def coefficients(spectrum: Spectrum, values: Tensor) -> Tensor:
    """a_j = <values, phi_j> of functions given at the spectrum's points, (..., N, d) -> (..., J).

    All J = N d of them determine a function [P 90]. ValueError if its shape is not that of an
    eigenfunction.
    """
    N, d = spectrum.functions.shape[1:]
    if values.shape[-2:] != (N, d):
        shapes = f"{tuple(values.shape)} and {(N, d)}"
        raise ValueError(f"a function and the eigenfunctions must have one shape, not {shapes}")
    return values.double().flatten(-2) @ spectrum.functions.flatten(1).T / N


def forcing(spectrum: Spectrum, blocks: Tensor, weight: Tensor, xi: Tensor) -> Tensor:
    """eta_j of batches, (..., J): the drift that the Bayes noise xi gives to a_j [P 91].

    weight (..., B) is M(lambda_b) and xi (..., B, d) is f*(x_b) - y_b, of one batch of B samples
    or of several; a batch counts by its mean. blocks (N, all samples, d, d), batch after batch,
    are Theta_0((x_i, lambda), (x_b, lambda_b)) between the spectrum's points and the samples.
    """
    if weight.shape != xi.shape[:-1] or blocks.shape[1] != weight.numel():
        sizes = f"{blocks.shape[1]}, {weight.numel()} and {xi.shape[:-1].numel()}"
        raise ValueError(f"kernel, weights and noise belong to batches of different size: {sizes}")
    noise = weight.double()[..., None] * xi.double() / xi.shape[-2]
    parts = blocks.double().unflatten(1, weight.shape)
    return -coefficients(spectrum, torch.einsum("n...bde,...be->...nd", parts, noise))


def evolve(start: Tensor, kappa: Tensor, weight: float, eta: Tensor, step: float) -> Tensor:
    """a_j at the ends of all steps, (S + 1, J), from start (J,), exactly [P 98].

    eta (S, J) holds the forcing of each of S steps of length `step`; weight is M(lambda).
    """
    _check(start, kappa, eta, weight, step)
    contraction = weight * kappa.double()
    kept, gained = (-contraction * step).exp(), _elapsed(contraction, step)
    path = [start.double()]
    for forced in eta.double():
        path.append(kept * path[-1] + gained * forced)
    return torch.stack(path)


def excess(a: Tensor, weight: float) -> Tensor:
    """M / 2 sum_j a_j^2, (..., J) -> (...): the excess by Parseval's identity [P 103-104]."""
    return weight / 2 * a.double().square().sum(-1)


def bound(
    start: Tensor, kappa: Tensor, weight: float, eta: Tensor, step: float, gamma: float
) -> Tensor:
    """The bound on the excess at the ends of all steps, (S + 1,) [P 10, 92 without the floor].

    With c_j = 2 M kappa_j - gamma it is M / 2 sum_j of

        e^{-c_j tau} a_0j^2 + 1 / gamma int_0^tau e^{-c_j (tau - s)} eta_sj^2 ds,

    exact for a forcing held over steps; arguments as in `evolve`. Where gamma exceeds 2 M kappa_j
    the bound of that mode grows with tau. ValueError unless gamma > 0.
    """
    _check(start, kappa, eta, weight, step)
    if not gamma > 0:
        raise ValueError(f"the bound holds for gamma > 0, not {gamma}")
    decay = 2 * weight * kappa.double() - gamma
    kept, gained = (-decay * step).exp(), _elapsed(decay, step) / gamma
    each = [start.double().square()]
    for forced in eta.double():
        each.append(kept * each[-1] + gained * forced.square())
    return weight / 2 * torch.stack(each).sum(-1)


def _elapsed(rate: Tensor, step: float) -> Tensor:
    """int_0^step e^{-rate s} ds, which is the step itself where the rate is 0."""
    safe = torch.where(rate == 0, 1.0, rate)
    return torch.where(rate == 0, step, -torch.expm1(-safe * step) / safe)


def _check(start: Tensor, kappa: Tensor, eta: Tensor, weight: float, step: float) -> None:
    if not (start.shape == kappa.shape == eta.shape[1:] and start.ndim == 1):
        shapes = f"{tuple(start.shape)}, {tuple(kappa.shape)} and {tuple(eta.shape)}"
        raise ValueError(f"modes (J,), eigenvalues (J,) and forcing (S, J) do not fit: {shapes}")
    if bool((kappa < 0).any()) or not (weight >= 0 and step > 0):
        raise ValueError("eigenvalues and the weight must be at least 0 and the step positive")
