"""The paper's toy network: a time-conditioned multi-layer perceptron on points [P F.1].

Time enters by a sinusoidal embedding: cosines and sines of time_scale t f_k with frequencies f_k
falling geometrically from 1 to 1e-4. The documents do not say what multiplies t: 1 (the default, t
as it is) and 1000 (t counted in the steps of a table) are both in use elsewhere.
"""

import math
from itertools import pairwise

import torch
from torch import Tensor, nn


class TimeEmbedding(nn.Module):
    """t (N,) -> cosines and sines of time_scale t f_k, (N, size); f_k from 1 to 1e-4."""

    def __init__(self, size: int = 64, time_scale: float = 1.0) -> None:
        super().__init__()
        if size < 4 or size % 2:
            raise ValueError(
                f"the size of a time embedding must be even and at least 4, got {size}"
            )
        exponent = torch.arange(size // 2) / (size // 2 - 1)
        frequencies = time_scale * torch.exp(-math.log(1e4) * exponent)
        self.frequencies: Tensor
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, t: Tensor) -> Tensor:
        """(N,) -> (N, size)."""
        phase = t[:, None] * self.frequencies.to(t.dtype)
        return torch.cat([phase.cos(), phase.sin()], -1)


class MLP(nn.Module):
    """Points (N, dim) and times (N,) -> predictions (N, dim) [P F.1].

    The embedding of t is concatenated with x; `depth` hidden layers of `width` with SiLU follow,
    then a linear readout. `features` are the activations before the readout, h in [P D.3].
    """

    def __init__(
        self,
        dim: int = 2,
        width: int = 256,
        depth: int = 3,
        embedding: int = 64,
        time_scale: float = 1.0,
    ) -> None:
        super().__init__()
        if min(dim, width, depth) < 1:
            raise ValueError("dim, width and depth must be at least 1")
        self.embed = TimeEmbedding(embedding, time_scale)
        sizes = [dim + embedding, *[width] * depth]
        self.hidden = nn.ModuleList(nn.Linear(i, o) for i, o in pairwise(sizes))
        self.readout = nn.Linear(width, dim)

    def features(self, x: Tensor, t: Tensor) -> Tensor:
        """Activations before the readout, (N, width)."""
        h = torch.cat([x, self.embed(t.expand(len(x)))], -1)  # (N, dim + embedding)
        for layer in self.hidden:
            h = nn.functional.silu(layer(h))  # (N, width)
        return h

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """The prediction at points x and times t in [0, 1], a scalar or (N,); label is unused."""
        readout: Tensor = self.readout(self.features(x, t))
        return readout
