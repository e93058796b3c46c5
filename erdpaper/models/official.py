"""Official weights behind this package's convention of time."""

import torch
from torch import Tensor, nn

from erdpaper.models.transformer import TIME_SCALE


class Indexed(nn.Module):
    """A network trained on the index k = 0..T-1 of a table, called with t = (k + 1)/T like others.

    Networks here embed 1000 t, so this one is given t = k/1000. The official DiT weights count so
    (T = 1000); U-ViT's were trained on k + 1 = 1000 t and need no wrapper. Times between two nodes
    go to the nearer one, and times below the first node to index 0.
    """

    def __init__(self, model: nn.Module, T: int = 1000) -> None:
        super().__init__()
        if T < 1:
            raise ValueError(f"a table needs at least one time, got T = {T}")
        self.model = model
        self.T = T

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """The prediction (N, C, H, W) at images x (N, C, H, W) and times t, a scalar or (N,)."""
        index = (torch.round(self.T * t) - 1).clamp(min=0)  # () or (N,)
        prediction: Tensor = self.model(x, index / TIME_SCALE, label)  # (N, C, H, W)
        return prediction
