"""The paper's toy network: a time-conditioned multi-layer perceptron on points [P F.1].

Time enters by a sinusoidal embedding: cosines and sines of time_scale t f_k with frequencies f_k
falling geometrically from 1 to 1e-4. The documents do not say what multiplies t: 1 (the default, t
as it is) and 1000 (t counted in the steps of a table) are both in use elsewhere.

Two parameterisations of a layer: "standard" is torch's, z = W a + b; "ntk", under which the tangent
kernel has a limit as the width grows, is z = gain / sqrt(fan-in) W a + 0.1 b, all entries of W and
b drawn from N(0, 1). The gain is `SILU_GAIN` in hidden layers and 1 in the readout.
"""

import math
from functools import partial
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

# 1 / sqrt(E silu(z)^2), z ~ N(0, 1): a second moment of 1 before SiLU stays 1, layer after layer
SILU_GAIN = 1.676532470331091
# small, so that the biases of a layer add 0.01 to that second moment
BIAS_FACTOR = 0.1


class ScaledLinear(nn.Linear):
    """z = weight_factor W a + bias_factor b with entries of W and b drawn from N(0, 1).

    The factors are fixed: they belong to the module, not to its state dict.
    """

    def __init__(self, in_features: int, out_features: int, gain: float = 1.0) -> None:
        super().__init__(in_features, out_features)
        self.weight_factor = gain / math.sqrt(in_features)
        self.bias_factor = BIAS_FACTOR

    def reset_parameters(self) -> None:
        """Draw every weight and bias from N(0, 1)."""
        nn.init.normal_(self.weight)
        nn.init.normal_(self.bias)

    def forward(self, input: Tensor) -> Tensor:
        """(N, in_features) -> (N, out_features)."""
        scaled = self.weight_factor * self.weight, self.bias_factor * self.bias
        return nn.functional.linear(input, *scaled)


def scale_factors(layer: nn.Linear) -> tuple[float, float]:
    """What a layer multiplies its weights and its biases by; 1 and 1 for a plain nn.Linear."""
    if isinstance(layer, ScaledLinear):
        return layer.weight_factor, layer.bias_factor
    return 1.0, 1.0


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
    `parameterisation` is "standard" or "ntk", see the module docstring.
    """

    def __init__(
        self,
        dim: int = 2,
        width: int = 256,
        depth: int = 3,
        embedding: int = 64,
        time_scale: float = 1.0,
        parameterisation: Literal["standard", "ntk"] = "standard",
    ) -> None:
        super().__init__()
        if min(dim, width, depth) < 1:
            raise ValueError("dim, width and depth must be at least 1")
        if parameterisation not in ("standard", "ntk"):
            raise ValueError(f'parameterisation is "standard" or "ntk", not {parameterisation!r}')
        scaled = parameterisation == "ntk"
        hidden = partial(ScaledLinear, gain=SILU_GAIN) if scaled else nn.Linear
        self.embed = TimeEmbedding(embedding, time_scale)
        sizes = [dim + embedding, *[width] * depth]
        self.hidden = nn.ModuleList(hidden(i, o) for i, o in pairwise(sizes))
        self.readout = (ScaledLinear if scaled else nn.Linear)(width, dim)

    def inputs(self, x: Tensor, t: Tensor) -> Tensor:
        """What the first layer sees: points and embedded times, (N, dim + embedding)."""
        return torch.cat([x, self.embed(t.expand(len(x)))], -1)

    def features(self, x: Tensor, t: Tensor) -> Tensor:
        """Activations before the readout, (N, width)."""
        h = self.inputs(x, t)  # (N, dim + embedding)
        for layer in self.hidden:
            h = nn.functional.silu(layer(h))  # (N, width)
        return h

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """The prediction at points x and times t in [0, 1], a scalar or (N,); label is unused."""
        readout: Tensor = self.readout(self.features(x, t))
        return readout
