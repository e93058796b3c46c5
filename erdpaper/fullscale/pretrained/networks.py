"""Networks of diffusers behind this package's call model(x, t, label)."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

# (x, index, label) -> y, all of one batch, on the network's device and in its dtype
Answer = Callable[[Tensor, Tensor, Tensor], Tensor]


def index(t: Tensor, T: int) -> Tensor:
    """The index t T - 1 that stands for times t (N,) of a table with T levels, float32.

    At a node t = (k + 1) / T it is the integer k, which the network was trained on; between two
    nodes it is a fraction, which keeps the noise level that the network is told the one that x has.
    Times below the first node get index 0.
    """
    # a float32 time is off by up to 3e-5 of an index: rounding makes nodes whole
    return torch.round(t.double() * T - 1, decimals=3).clamp(min=0).float()


class Adapter(nn.Module):
    """What a network answers, asked as networks are here; T is the length of its table.

    network: its module, whose device and dtype count; answer: how to ask it; batch: how many
    samples it sees at once. States x (N, ...) are float32 or float64, and so is the result, which
    comes back to where x is.
    """

    def __init__(self, network: nn.Module, answer: Answer, T: int, batch: int) -> None:
        super().__init__()
        self.network, self.answer, self.T, self.batch = network, answer, T, batch

    def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        """The prediction (N, ...) at states x (N, ...), times t (N,) and labels (N,)."""
        if x.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"states must be float32 or float64, not {x.dtype}")
        like = next(self.network.parameters())
        whole = (x.to(like), index(t, self.T).to(like.device), label.to(like.device))
        parts = zip(*(each.split(self.batch) for each in whole), strict=True)
        return torch.cat([self.answer(*part) for part in parts]).to(x)  # (N, ...)
