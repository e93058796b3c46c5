"""Independent networks of one architecture, called and trained as one."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap


class Stack(nn.Module):
    """K networks side by side: inputs (K, N, ...) and times (K, N), outputs (K, N, ...).

    Their parameters become one leading axis, so that K small products are one batched product.
    Training the stack trains each network as if it were alone; `networks` gives them back.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        if not networks:
            raise ValueError("a stack needs at least one network")
        parameters, buffers = stack_module_state(list(networks))
        self._names = list(parameters)
        self._stacked = nn.ParameterList(parameters.values())
        for name, buffer in buffers.items():
            self.register_buffer(_flat(name), buffer, persistent=False)
        self._buffers_of = list(buffers)
        # in a tuple, so that its parameters are not registered as this module's
        self._one = (copy.deepcopy(networks[0]),)

    def _state(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        parameters = dict(zip(self._names, self._stacked, strict=True))
        return parameters, {name: getattr(self, _flat(name)) for name in self._buffers_of}

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """Each network's prediction at its own points and times; label (K, N) if there is one."""

        def one(state: Any, *inputs: Tensor) -> Any:
            return functional_call(self._one[0], state, inputs)

        inputs = (x, t) if label is None else (x, t, label)
        prediction: Tensor = vmap(one)(self._state(), *inputs)
        return prediction

    def networks(self) -> list[nn.Module]:
        """The networks as they are now, each a module of its own."""
        parameters, buffers = self._state()
        copies = []
        for k in range(len(self._stacked[0])):
            # in the precision and on the device to which the stack was moved
            network = copy.deepcopy(self._one[0]).to(self._stacked[0])
            state = {name: value[k] for name, value in (parameters | buffers).items()}
            with torch.no_grad():
                for name, value in [*network.named_parameters(), *network.named_buffers()]:
                    value.copy_(state[name])
            copies.append(network)
        return copies


def _flat(name: str) -> str:
    """A buffer's name without dots, which a module's own buffers may not have."""
    return "buffer_" + name.replace(".", "_")
