"""Layers of the small image networks in numpy, from a state dict: no torch in what they compute."""

import numpy as np
from torch import Tensor, nn

Arrays = dict[str, np.ndarray]


def arrays(net: nn.Module) -> Arrays:
    return {name: part.detach().numpy() for name, part in net.state_dict().items()}


def silu(z: np.ndarray) -> np.ndarray:
    answer: np.ndarray = z / (1 + np.exp(-z))
    return answer


def affine(state: Arrays, name: str, h: np.ndarray) -> np.ndarray:
    answer: np.ndarray = h @ state[f"{name}.weight"].T + state[f"{name}.bias"]
    return answer


def normed(h: np.ndarray, eps: float) -> np.ndarray:
    """Mean 0 and variance 1 over all but the first axis."""
    axes = tuple(range(1, h.ndim))
    variance = h.var(axes, keepdims=True)
    answer: np.ndarray = (h - h.mean(axes, keepdims=True)) / np.sqrt(variance + eps)
    return answer


def condition(state: Arrays, size: int, t: Tensor, label: Tensor) -> np.ndarray:
    """The embedding of time and class that modulates every block, (N, size)."""
    half = size // 2
    phase = 1000 * np.outer(t, [1e4 ** (-k / (half - 1)) for k in range(half)])
    c = affine(state, "embed.0", np.concatenate([np.cos(phase), np.sin(phase)], 1))
    return silu(affine(state, "embed.2", silu(c)) + state["label.weight"][label])


def residual(state: Arrays, name: str, h: np.ndarray, c: np.ndarray) -> np.ndarray:
    """h + gate * outer(silu(inner((1 + scale) * norm(h) + shift)))."""
    shift, scale, gate = np.split(affine(state, f"{name}.modulation", c), 3, 1)
    z = affine(state, f"{name}.inner", (1 + scale) * normed(h, 1e-6) + shift)
    answer: np.ndarray = h + gate * affine(state, f"{name}.outer", silu(z))
    return answer


def convolved(state: Arrays, name: str, h: np.ndarray) -> np.ndarray:
    """A convolution that keeps the size, zeros around the image."""
    kernel = state[f"{name}.weight"]
    size = kernel.shape[-1]
    edge = (size // 2, size // 2)
    padded = np.pad(h, ((0, 0), (0, 0), edge, edge))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), (2, 3))
    answer: np.ndarray = np.einsum("nchwij,ocij->nohw", windows, kernel)
    return answer + state[f"{name}.bias"][:, None, None]


def convolutional(state: Arrays, name: str, h: np.ndarray, c: np.ndarray) -> np.ndarray:
    """The same block with 3x3 convolutions, one norm over channels and positions."""
    wide = affine(state, f"{name}.modulation", c)[..., None, None]
    shift, scale, gate = np.split(wide, 3, 1)
    z = convolved(state, f"{name}.inner", (1 + scale) * normed(h, 1e-5) + shift)
    answer: np.ndarray = h + gate * convolved(state, f"{name}.outer", silu(z))
    return answer


def folded(x: np.ndarray) -> np.ndarray:
    """Every 2x2 pixels of a channel become four channels, row by row."""
    corners = [x[:, :, i::2, j::2] for i in range(2) for j in range(2)]
    n, channels, height, width = corners[0].shape
    return np.stack(corners, 2).reshape(n, 4 * channels, height, width)


def unfolded(y: np.ndarray) -> np.ndarray:
    n, channels, height, width = y.shape
    x = np.empty((n, channels // 4, 2 * height, 2 * width))
    for i in range(2):
        for j in range(2):
            x[:, :, i::2, j::2] = y[:, 2 * i + j :: 4]
    return x
