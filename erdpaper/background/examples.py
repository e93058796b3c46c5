"""Linear-Gaussian models with known evidence: an autoencoder with several encoders, hierarchies."""

from dataclasses import replace

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence

from erdpaper.background.bounds import Hierarchy
from erdpaper.background.gaussians import NOWHERE, Conditional, Law, chain_law


def _covariance(n: int, generator: torch.Generator) -> Tensor:
    root = torch.randn(n, n, generator=generator, dtype=torch.float64)
    return root @ root.T + 0.3 * torch.eye(n, dtype=torch.float64)


def conditional(m: int, n: int, generator: torch.Generator) -> Conditional:
    """A random law of m numbers given n."""
    slope, offset = (
        torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((m, n), (m,))
    )
    return Conditional(slope, offset, _covariance(m, generator))


def hierarchy(sizes: tuple[int, ...], generator: torch.Generator) -> Hierarchy:
    """A random Markovian hierarchy with sizes of x_0..x_T."""
    steps = range(1, len(sizes))
    up = tuple(conditional(sizes[t], sizes[t - 1], generator) for t in steps)
    down = tuple(conditional(sizes[t - 1], sizes[t], generator) for t in steps)
    mean = torch.randn(sizes[-1], generator=generator, dtype=torch.float64)
    return Hierarchy(up, down, Law(mean, _covariance(sizes[-1], generator)))


def posterior(model: Hierarchy) -> Conditional:
    """p(z | x) of a model with one level."""
    top = Conditional(model.prior.covariance[:, :0], model.prior.mean, model.prior.covariance)
    law = chain_law([top, model.down[0]])
    latent = len(model.prior.mean)
    positions = torch.arange(len(law.mean))
    return law.conditional(positions[:latent], positions[latent:])


def encoders(model: Hierarchy) -> dict[str, Hierarchy]:
    """The same model with the true posterior for an encoder, and with three that are off."""
    true = posterior(model)
    variances = torch.diag(torch.diagonal(true.covariance))
    choices = {
        "true posterior": true,
        "shifted": replace(true, offset=true.offset + 0.5),
        "shrunk": replace(true, covariance=0.3 * true.covariance),
        "diagonal": replace(true, covariance=variances),
    }
    return {name: replace(model, up=(encoder,)) for name, encoder in choices.items()}


def library_kl(p: Conditional, q: Conditional | Law, x: Tensor) -> float:
    """KL(p(. | x) || q(. | x)) by torch.distributions; q may be a law that knows no x."""
    first = p.given(x)
    second = (
        q.given(x)
        if isinstance(q, Conditional)
        else q.conditional(torch.arange(len(q.mean)), NOWHERE)
    )
    laws = [MultivariateNormal(one.offset, one.covariance) for one in (first, second)]
    return float(kl_divergence(*laws))
