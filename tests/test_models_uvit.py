import math
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from erdpaper.models.uvit import CONFIGS, UViT, UViTConfig

F64 = torch.float64
# sizes that no two dimensions share
SMALL = UViTConfig(12, 3, 2, 24, 5, 2, 7, conv=True)


def random_uvit(config: UViTConfig = SMALL, seed: int = 0) -> UViT:
    """No parameter is 0 or 1, as after training."""
    torch.manual_seed(seed)
    model = UViT(config).eval()
    for p in model.parameters():
        nn.init.normal_(p, std=0.2)
    return model


def inputs(config: UViTConfig = SMALL, n: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, config.channels, config.size, config.size, generator=generator)
    t = torch.rand(n, generator=generator)
    return x, t, torch.randint(config.classes, (n,), generator=generator)


# --- sizes, names and counts


def official_shapes(c: UViTConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of the released checkpoints, from their naming rules."""

    def pair(name: str, *shape: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield f"{name}.weight", shape
        yield f"{name}.bias", shape[:1]

    D, half = c.width, c.depth // 2
    yield "pos_embed", (1, 2 + (c.size // c.patch) ** 2, D)
    yield from pair("patch_embed.proj", D, c.channels, c.patch, c.patch)
    yield "label_emb.weight", (c.classes + 1, D)
    ins, outs = ([f"{part}_blocks.{k}" for k in range(half)] for part in ("in", "out"))
    for block in (*ins, "mid_block", *outs):
        yield from pair(f"{block}.norm1", D)
        yield f"{block}.attn.qkv.weight", (3 * D, D)
        yield from pair(f"{block}.attn.proj", D, D)
        yield from pair(f"{block}.norm2", D)
        yield from pair(f"{block}.mlp.fc1", 4 * D, D)
        yield from pair(f"{block}.mlp.fc2", D, 4 * D)
        if block in outs:
            yield from pair(f"{block}.skip_linear", D, 2 * D)
    yield from pair("norm", D)
    yield from pair("decoder_pred", c.patch**2 * c.channels, D)
    if c.conv:
        yield from pair("final_layer", c.channels, c.channels, 3, 3)


@pytest.mark.parametrize("name", ["U-ViT-M/2", "U-ViT-H/2"])
@pytest.mark.parametrize("conv", [True, False])
def test_official_checkpoints_load_by_name(name: str, conv: bool) -> None:
    shapes = dict(official_shapes(replace(CONFIGS[name], conv=conv)))
    with torch.device("meta"):
        model = UViT.from_name(name, conv=conv)
        model.load_state_dict({k: torch.empty(shape) for k, shape in shapes.items()}, strict=True)
    assert {k: tuple(v.shape) for k, v in model.state_dict().items()} == shapes


def count(c: UViTConfig) -> int:
    D, pixels, half = c.width, c.patch**2 * c.channels, c.depth // 2
    embedders = (pixels + 1) * D + (c.classes + 1) * D + (2 + (c.size // c.patch) ** 2) * D
    blocks = c.depth * (12 * D * D + 10 * D) + half * (2 * D * D + D)
    readout = 2 * D + (D + 1) * pixels
    return embedders + blocks + readout + (9 * c.channels + 1) * c.channels * c.conv


@pytest.mark.parametrize(
    ("name", "millions"), [("U-ViT-M/2", 131), ("U-ViT-L/2", 287), ("U-ViT-H/2", 501)]
)
def test_parameter_counts_are_the_published_ones(name: str, millions: int) -> None:
    for conv in (True, False):
        with torch.device("meta"):
            model = UViT.from_name(name, conv=conv)
        found = sum(p.numel() for p in model.parameters())
        assert found == count(replace(CONFIGS[name], conv=conv))
        assert round(found / 1e6) == millions


@pytest.mark.parametrize(
    ("name", "shape"), [("U-ViT-fashion", (1, 28, 28)), ("U-ViT-fashion-latent", (4, 7, 7))]
)
def test_the_small_configs_have_49_tokens_and_ten_classes(
    name: str, shape: tuple[int, ...]
) -> None:
    model = UViT.from_name(name)
    x = torch.randn(2, *shape)
    assert model(x, torch.tensor(0.5), torch.tensor([0, 9])).shape == x.shape
    assert {h.shape for h in model.hidden(x, torch.tensor(0.5))} == {(2, 49, 96)}
    assert sum(p.numel() for p in model.parameters()) == count(CONFIGS[name])
    assert model.null == 10


# --- the network against one written down in float64


class ByHand:
    """U-ViT from a state dict, one sample at a time, in plain products."""

    def __init__(self, model: UViT) -> None:
        self.config = model.config
        self.state = {name: value.double() for name, value in model.state_dict().items()}

    def linear(self, name: str, h: Tensor) -> Tensor:
        out = h @ self.state[f"{name}.weight"].T
        return out + self.state[f"{name}.bias"] if f"{name}.bias" in self.state else out

    def norm(self, name: str, h: Tensor) -> Tensor:
        centred = h - h.mean(1, keepdim=True)
        scaled = centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt()
        return scaled * self.state[f"{name}.weight"] + self.state[f"{name}.bias"]

    def attention(self, name: str, h: Tensor) -> Tensor:
        D, heads = self.config.width, self.config.heads
        qkv, size = self.linear(f"{name}.qkv", h), D // heads
        mixed = []
        for k in range(heads):
            query, key, value = (qkv[:, D * j + size * k :][:, :size] for j in range(3))
            scores = torch.exp(query @ key.T / math.sqrt(size))
            mixed.append(scores / scores.sum(1, keepdim=True) @ value)
        return self.linear(f"{name}.proj", torch.cat(mixed, 1))

    def block(self, name: str, h: Tensor) -> Tensor:
        h = h + self.attention(f"{name}.attn", self.norm(f"{name}.norm1", h))
        hidden = self.linear(f"{name}.mlp.fc1", self.norm(f"{name}.norm2", h))
        hidden = hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2
        return h + self.linear(f"{name}.mlp.fc2", hidden)

    def tokens(self, x: Tensor, t: float, label: int) -> Tensor:
        D, p = self.config.width, self.config.patch
        kernel = self.state["patch_embed.proj.weight"]
        patches = F.conv2d(x[None], kernel, self.state["patch_embed.proj.bias"], p)[0]
        phase = [1000 * t * 1e4 ** (-2 * i / D) for i in range(D // 2)]
        time = torch.tensor([*map(math.cos, phase), *map(math.sin, phase)], dtype=F64)
        first = [self.state["label_emb.weight"][label], time]
        return torch.cat([torch.stack(first), patches.flatten(1).T]) + self.state["pos_embed"][0]

    def states(self, x: Tensor, t: float, label: int) -> list[Tensor]:
        """All tokens after each block."""
        h, half = self.tokens(x, t, label), self.config.depth // 2
        found = []
        for k in range(self.config.depth):
            if k < half:
                name = f"in_blocks.{k}"
            elif k == half:
                name = "mid_block"
            else:
                name = f"out_blocks.{k - half - 1}"
                # the last kept comes back first: blocks k and depth - 1 - k face each other
                kept = found[self.config.depth - 1 - k]
                h = self.linear(f"{name}.skip_linear", torch.cat([h, kept], 1))
            h = self.block(name, h)
            found.append(h)
        return found

    def __call__(self, x: Tensor, t: float, label: int) -> Tensor:
        c = self.config
        last = self.norm("norm", self.states(x, t, label)[-1])
        pixels = self.linear("decoder_pred", last)[2:]
        image, across = torch.empty_like(x), c.size // c.patch
        for place, values in enumerate(pixels):
            row, column = c.patch * (place // across), c.patch * (place % across)
            patch = values.view(c.patch, c.patch, c.channels).permute(2, 0, 1)
            image[:, row : row + c.patch, column : column + c.patch] = patch
        if not c.conv:
            return image
        weight, bias = self.state["final_layer.weight"], self.state["final_layer.bias"]
        return F.conv2d(image[None], weight, bias, padding=1)[0]


@torch.no_grad()
@pytest.mark.parametrize("conv", [True, False])
def test_it_computes_what_is_written_down(conv: bool) -> None:
    model = random_uvit(replace(SMALL, conv=conv)).double()
    x, t, label = (part.double() if part.is_floating_point() else part for part in inputs())
    by_hand = ByHand(model)
    rows = list(zip(x, t.tolist(), label.tolist(), strict=True))
    expected = torch.stack([by_hand(*row) for row in rows])
    assert float(expected.abs().max()) > 0.3
    torch.testing.assert_close(model(x, t, label), expected, rtol=1e-10, atol=1e-10)
    states = [torch.stack(s) for s in zip(*(by_hand.states(*row) for row in rows), strict=True)]
    found = model.hidden(x, t, label)
    assert len(found) == 5
    for mine, theirs in zip(found, states, strict=True):
        torch.testing.assert_close(mine, theirs[:, 2:], rtol=1e-10, atol=1e-10)
    # no label is the null class
    null = torch.stack([by_hand(*row[:2], 7) for row in rows])
    torch.testing.assert_close(model(x, t), null, rtol=1e-10, atol=1e-10)


def test_one_time_serves_all_samples() -> None:
    model = random_uvit()
    x, _, label = inputs()
    t = torch.tensor(0.3)
    assert torch.equal(model(x, t, label), model(x, t.expand(5), label))


def test_a_new_network_is_drawn_as_the_original() -> None:
    torch.manual_seed(0)
    model = UViT.from_name("U-ViT-M/2", depth=3, conv=False)
    for name, p in model.named_parameters():
        if "norm" in name:
            assert torch.equal(p, torch.full_like(p, float(name.endswith("weight")))), name
        elif name.startswith(("patch_embed", "label_emb")):
            # torch's own: uniform within 1/sqrt(16), and N(0, 1)
            assert float(p.detach().std()) == pytest.approx(
                1.0 if name.startswith("label") else 0.25 / 3**0.5, rel=0.06
            )
        elif name.endswith("bias"):
            assert not p.any(), name
        else:
            assert float(p.detach().std()) == pytest.approx(0.02, rel=0.02), name


# --- what changes only the speed


@torch.no_grad()
def test_a_compiled_network_says_the_same() -> None:
    # one block on each side of a skip; the C++ is built without its optimisations, for time
    model = random_uvit(replace(SMALL, depth=3))
    quickly = {"aot_inductor.debug_compile": True}
    found = torch.compile(model, fullgraph=True, options=quickly)(*inputs())
    torch.testing.assert_close(found, model(*inputs()), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_bfloat16_says_the_same_within_its_precision() -> None:
    model = random_uvit()
    exact = model(*inputs())
    with torch.autocast("cpu", torch.bfloat16):
        rough = model(*inputs())
    apart = float((rough.float() - exact).norm() / exact.norm())
    # products are rounded to 8 bits, 2^-9 = 0.2 %, and there are five blocks
    assert 0 < apart < 0.02


# --- what is refused


def test_a_network_without_classes_takes_no_label() -> None:
    model = random_uvit(replace(SMALL, classes=0))
    assert "label_emb.weight" not in model.state_dict()
    x, t, label = inputs()
    assert model.pos_embed.shape == (1, 37, 24)
    assert model(x, t).shape == x.shape
    with pytest.raises(ValueError, match="takes no label"):
        model(x, t, label)


def test_wrong_inputs_are_refused() -> None:
    model = UViT(SMALL)
    x, t, label = inputs()
    with pytest.raises(ValueError, match=r"x must be \(N, 3, 12, 12\), got \(5, 2, 12, 12\)"):
        model(x[:, :2], t, label)
    with pytest.raises(ValueError, match=r"label must be \(5,\) int64, got \(1,\) torch.int64"):
        model(x, t, label[:1])


def test_wrong_names_and_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="no model is called 'U-ViT-S/2'; there are U-ViT-M/2, U"):
        UViT.from_name("U-ViT-S/2")
    with pytest.raises(ValueError, match=r"depth must be odd \(in, middle, out blocks\), got 4"):
        replace(SMALL, depth=4)
