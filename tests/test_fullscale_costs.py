"""What a step costs, by formulas, against what torch counts and keeps."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from erdpaper.fullscale import costs
from erdpaper.fullscale.costs import Way
from erdpaper.models.dit import DiT, DiTConfig
from erdpaper.models.transformer import Sizes
from erdpaper.models.unet import UNet, UNetConfig
from erdpaper.models.uvit import UViT, UViTConfig

N = 4
# size, channels, patch, width, depth, heads, classes
CONFIGS: dict[str, Sizes] = {
    "DiT": DiTConfig(16, 4, 2, 96, 3, 4, 10, True),
    "DiT without classes": DiTConfig(16, 3, 4, 192, 4, 6, 0, False),
    "U-ViT": UViTConfig(16, 4, 2, 96, 5, 4, 10, True),
    "U-ViT without classes": UViTConfig(16, 3, 2, 192, 7, 6, 0, False),
}


def made(config: Sizes) -> Any:
    torch.manual_seed(0)
    return DiT(config) if isinstance(config, DiTConfig) else UViT(config)  # type: ignore[arg-type]


def given(config: Sizes) -> tuple[Tensor, ...]:
    inputs = torch.randn(N, config.channels, config.size, config.size), torch.rand(N)
    return (*inputs, torch.arange(N)) if config.classes else inputs


@pytest.mark.parametrize("name", CONFIGS)
def test_operations_are_those_that_torch_counts(name: str) -> None:
    config = CONFIGS[name]
    model = made(config)
    # the fused attention of CPUs is not counted
    with sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as forward:
            out = model(*given(config))
        with FlopCounterMode(display=False) as backward:
            out.square().mean().backward()
    assert N * costs.forward_operations(model) == pytest.approx(forward.get_total_flops(), rel=1e-3)
    # no gradient goes to the image
    both = forward.get_total_flops() + backward.get_total_flops()
    assert costs.step_operations(costs.forward_operations(model), N) == pytest.approx(
        both, rel=0.02
    )


@pytest.mark.parametrize("name", CONFIGS)
def test_activations_are_what_torch_keeps(name: str) -> None:
    config = CONFIGS[name]
    model = made(config)
    assert N * costs.activations(model, Way()) == pytest.approx(
        costs.kept(model, *given(config)), rel=0.01
    )
    with torch.autocast("cpu", torch.bfloat16):
        found = costs.kept(model, *given(config)) - 2 * costs.parameters(model)
    # a GPU widens the branches before they are added, a CPU does not
    assert 1 <= N * costs.activations(model, Way(half=True)) / found < 1.15


def saved(model: nn.Module, *inputs: Tensor) -> int:
    """What the hooks of torch see, counted without the code under test."""
    own = {p.data_ptr() for p in [*model.parameters(), *model.buffers(), *inputs]}
    kept: dict[int, Tensor] = {}

    def pack(part: Tensor) -> Tensor:
        kept[part.untyped_storage().data_ptr()] = part
        return part

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda part: part):
        model(*inputs)
    return sum(p.untyped_storage().nbytes() for start, p in kept.items() if start not in own)


@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_kept_is_counted_once(name: str) -> None:
    config = CONFIGS[name]
    model = made(config)
    assert costs.kept(model, *given(config)) == saved(model, *given(config))


@pytest.mark.parametrize("name", ["DiT", "U-ViT"])
def test_recomputing_keeps_the_inputs_of_blocks(name: str) -> None:
    config = CONFIGS[name]
    found, estimated = [], []
    for depth in (config.depth, config.depth + 4):
        model = type(made(config)).from_name(
            "DiT-fashion" if name == "DiT" else "U-ViT-fashion", **vars(config) | {"depth": depth}
        )
        model.recompute = True
        found.append(costs.kept(model, *given(config)))
        estimated.append(N * costs.activations(model, Way(recompute=True)))
    # from depth to depth only inputs of blocks are added
    assert estimated[1] - estimated[0] == pytest.approx(found[1] - found[0], rel=0.02)
    whole = N * costs.activations(made(config), Way())
    assert found[0] < estimated[0] < whole


def test_other_networks_are_measured() -> None:
    torch.manual_seed(0)
    model = UNet(UNetConfig(16, 2, (16, 32), (1,), 1, 8, 4, 3))
    inputs = torch.randn(1, 2, 16, 16), torch.rand(1), torch.zeros(1, dtype=torch.int64)
    assert costs.activations(model, Way(), *inputs) == saved(model, *inputs)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(*inputs)
    assert costs.forward_operations(model, *inputs) == counter.get_total_flops()
    before = costs.activations(model, Way(), *inputs)
    model.recompute = True
    assert costs.activations(model, Way(), *inputs) < 0.7 * before


def test_memory_is_shared_where_it_is_sharded() -> None:
    config = DiTConfig(16, 4, 2, 96, 8, 4, 10, True)
    model = made(config)
    n = sum(p.numel() for p in model.parameters())
    alone = costs.memory(model, 8, Way())
    assert alone[:6] == (4 * n, 4 * n, 8 * n, 4 * n, 0, 0)
    assert alone.activations == 8 * costs.activations(model, Way())
    assert alone.total == 20 * n + alone.activations
    several = costs.memory(model, 8, Way(half=True, processes=4))
    assert several[:6] == (4 * n, 4 * n, 8 * n, 4 * n, 2 * n, 4 * n)
    sharded = costs.memory(model, 8, Way(half=True, processes=4, shard=True))
    quarter = -(-n // 4)
    assert sharded[:4] == (4 * quarter, 4 * quarter, 8 * quarter, 4 * quarter)
    # two blocks gathered, and a block's gradients
    block = max(
        sum(p.numel() for p in model.blocks[0].parameters()),
        n - sum(p.numel() for p in model.blocks.parameters()),
    )
    assert sharded.copies == 2 * n + 12 * block and sharded.exchange == 0


def test_published_networks_cost_what_is_published() -> None:
    # 118.64 billion multiply-adds for DiT-XL/2, 23.01 for DiT-B/2 (Peebles and Xie 2023, Table 4)
    for name, billions in (("DiT-XL/2", 118.64), ("DiT-B/2", 23.01)):
        with torch.device("meta"):
            model = DiT.from_name(name)
        assert costs.forward_operations(model) / 2e9 == pytest.approx(billions, rel=0.002)
