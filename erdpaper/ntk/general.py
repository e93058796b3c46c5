"""The kernel of any network, by automatic differentiation: exact, general, and slow.

For N = M and a network of P parameters it takes 2 N^2 d^2 P operations. The closed form for the
paper's network is `layerwise`.
"""

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

from erdpaper.ntk.points import Points, both, tiled

# of one chunk's Jacobian; there are two chunks at a time, and what automatic differentiation needs
_BYTES = 1 << 28

Jacobian = dict[str, Tensor]


def empirical(
    model: nn.Module, first: Points, second: Points | None = None, chunk: int | None = None
) -> Tensor:
    """Theta between two sets of points, (N, M, d, d), for any module called model(x, t) [P 2, 14].

    Without `second` it is between all pairs of `first`; with many points that is half of the work.
    Points x may have any shape (N, ...) that the model takes; d is the number of entries of one
    prediction. All parameters count, frozen ones too; the module must treat the points of a batch
    independently, as in evaluation mode. At most two chunks of Jacobians, of `chunk` points each,
    are held at a time; without `chunk`, as many points as make 256 MB. ValueError on bad points or
    a chunk below 1. The kernel has the model's dtype and device.
    """
    rows, columns = both(model, first, second)
    if chunk is None:
        parameters = list(model.parameters())
        with torch.no_grad():
            d = model(rows[0][:1], rows[1][:1]).numel()
        size = sum(p.numel() for p in parameters) * d * parameters[0].element_size()
        chunk = max(1, _BYTES // size)
    if chunk < 1:
        raise ValueError(f"a chunk holds at least 1 point, not {chunk}")
    return tiled(lambda points: _jacobians(model, *points), _contracted, rows, columns, chunk)


def _jacobians(model: nn.Module, x: Tensor, t: Tensor) -> Jacobian:
    """J of every point, parameter by parameter: (n, d, size of the parameter)."""
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def answer(state: Jacobian, point: Tensor, time: Tensor) -> Tensor:
        prediction: Tensor = functional_call(model, state, (point[None], time[None]))
        return prediction.flatten()

    found: Jacobian = vmap(jacrev(answer), (None, 0, 0))(parameters, x, t)
    return {name: j.reshape(*j.shape[:2], -1) for name, j in found.items()}


def _contracted(first: Jacobian, second: Jacobian) -> Tensor:
    """J J'^T summed over parameters, (n, m, d, d); the Jacobians are never joined to one matrix."""
    total: Tensor | None = None
    for name, left in first.items():
        a, b = left.flatten(0, 1), second[name].flatten(0, 1)
        total = a @ b.T if total is None else total.addmm_(a, b.T)
    assert total is not None  # a model has parameters
    (n, d), m = next(iter(first.values())).shape[:2], len(next(iter(second.values())))
    return total.view(n, d, m, d).permute(0, 2, 1, 3)
