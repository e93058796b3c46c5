"""Hidden activations of any network called model(x, t, label), read by forward hooks."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

# points in one forward pass
_CHUNK = 256


@torch.no_grad()
def hidden_states(
    model: nn.Module,
    x: Tensor,
    t: Tensor | float,
    label: Tensor | None = None,
    *,
    layers: Sequence[str],
) -> dict[str, Tensor]:
    """What named submodules put out at points x (N, ...), times t and labels (N,): (N, F) each.

    t in [0, 1] is a scalar or (N,). A layer is named as in `model.named_modules()`, such as
    "hidden.2". Activations (N, F) stay as they are; (N, tokens, F) are averaged over tokens,
    (N, F, H, W) over positions. The model stays in the mode (train or eval) it is in, and no hook
    stays behind. ValueError on an unknown layer or one without a single such output in each pass.
    """
    modules = dict(model.named_modules())
    unknown = [name for name in layers if name not in modules]
    if unknown or not layers:
        asked = f"{unknown[0]!r} is no layer" if unknown else "no layer is asked for"
        raise ValueError(f"{asked}; the network has {', '.join(filter(None, modules))}")
    times = torch.as_tensor(t, dtype=x.dtype, device=x.device)
    if len(x) == 0 or times.shape not in ((), x.shape[:1]):
        shapes = f"{tuple(x.shape)} and {tuple(times.shape)}"
        raise ValueError(f"points x are (N, ...) and times a scalar or (N,), got {shapes}")
    if label is not None and label.shape != x.shape[:1]:
        raise ValueError(f"labels must be one per point, ({len(x)},), not {tuple(label.shape)}")
    times = times.expand(len(x))
    found: dict[str, list[Tensor]] = {name: [] for name in layers}
    with ExitStack() as hooks:
        for name, states in found.items():
            handle = modules[name].register_forward_hook(_keep(name, states))
            hooks.callback(handle.remove)
        for k, start in enumerate(range(0, len(x), _CHUNK)):
            part = slice(start, start + _CHUNK)
            model(x[part], times[part], None if label is None else label[part])
            for name, states in found.items():
                if len(states) != k + 1:
                    calls = len(states) - k
                    raise ValueError(f"layer {name!r} is called {calls} times in a pass, not once")
    return {name: torch.cat(states) for name, states in found.items()}


def _keep(name: str, states: list[Tensor]) -> Callable[[nn.Module, Any, Any], None]:
    """A hook that appends each output of a layer, pooled."""

    def hook(module: nn.Module, inputs: Any, output: Any) -> None:
        states.append(_pooled(name, output))

    return hook


def _pooled(name: str, output: Any) -> Tensor:
    """One row for each point, (N, F), in memory of its own."""
    if isinstance(output, Tensor) and output.ndim == 2:
        return output.clone()
    if isinstance(output, Tensor) and output.ndim == 3:
        return output.mean(1)  # tokens
    if isinstance(output, Tensor) and output.ndim == 4:
        return output.mean((2, 3))  # positions
    got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    raise ValueError(
        f"layer {name!r} must put out (N, F), (N, tokens, F) or (N, F, H, W), not {got}"
    )
