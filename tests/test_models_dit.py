import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import DiTTransformer2DModel
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from erdpaper.models.dit import CONFIGS, DiT, DiTConfig
from erdpaper.models.official import Indexed
from erdpaper.models.transformer import (
    Attention,
    gelu_tanh,
    patchify,
    sincos_positions,
    time_features,
    unpatchify,
)

F64 = torch.float64
# sizes that no two dimensions share
SMALL = DiTConfig(12, 3, 2, 24, 3, 2, 7, learn_sigma=True)


def random_dit(config: DiTConfig = SMALL, seed: int = 0) -> DiT:
    """No parameter is 0, as after training."""
    torch.manual_seed(seed)
    model = DiT(config).eval()
    for p in model.parameters():
        nn.init.normal_(p, std=0.2)
    return model


def inputs(config: DiTConfig = SMALL, n: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    """Images, times on the table of 1000 (t = (k + 1)/1000), labels."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, config.channels, config.size, config.size, generator=generator)
    k = torch.randint(1000, (n,), generator=generator)
    return x, (k + 1) / 1000, torch.randint(config.classes, (n,), generator=generator)


# --- sizes, names and counts


def official_shapes(c: DiTConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of the released checkpoints, from their naming rules."""

    def linear(name: str, outputs: int, ins: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield f"{name}.weight", (outputs, ins)
        yield f"{name}.bias", (outputs,)

    D, pixels = c.width, c.patch**2 * c.channels
    yield "pos_embed", (1, (c.size // c.patch) ** 2, D)
    yield "x_embedder.proj.weight", (D, c.channels, c.patch, c.patch)
    yield "x_embedder.proj.bias", (D,)
    yield from linear("t_embedder.mlp.0", D, 256)
    yield from linear("t_embedder.mlp.2", D, D)
    yield "y_embedder.embedding_table.weight", (c.classes + 1, D)
    for k in range(c.depth):
        yield from linear(f"blocks.{k}.attn.qkv", 3 * D, D)
        yield from linear(f"blocks.{k}.attn.proj", D, D)
        yield from linear(f"blocks.{k}.mlp.fc1", 4 * D, D)
        yield from linear(f"blocks.{k}.mlp.fc2", D, 4 * D)
        yield from linear(f"blocks.{k}.adaLN_modulation.1", 6 * D, D)
    yield from linear("final_layer.linear", pixels * (2 if c.learn_sigma else 1), D)
    yield from linear("final_layer.adaLN_modulation.1", 2 * D, D)


@pytest.mark.parametrize("name", ["DiT-S/2", "DiT-XL/2", "DiT-B/4", "DiT-L/8"])
def test_official_checkpoints_load_by_name(name: str) -> None:
    shapes = dict(official_shapes(CONFIGS[name]))
    with torch.device("meta"):
        model = DiT.from_name(name)
        model.load_state_dict({k: torch.empty(shape) for k, shape in shapes.items()}, strict=True)
    assert {k: tuple(v.shape) for k, v in model.state_dict().items()} == shapes


def count(c: DiTConfig) -> int:
    D, pixels = c.width, c.patch**2 * c.channels
    embedders = (pixels + 1) * D + (256 + 1) * D + (D + 1) * D + (c.classes + 1) * D
    blocks = c.depth * (18 * D * D + 15 * D)
    outputs = pixels * (2 if c.learn_sigma else 1)
    return embedders + blocks + 2 * (D * D + D) + (D + 1) * outputs


@pytest.mark.parametrize(("size", "millions"), [("S", 33), ("B", 130), ("L", 458), ("XL", 675)])
def test_parameter_counts_are_the_published_ones(size: str, millions: int) -> None:
    with torch.device("meta"):
        found = {
            learned: sum(
                p.numel() for p in DiT.from_name(f"DiT-{size}/2", learn_sigma=learned).parameters()
            )
            for learned in (True, False)
        }
    config = CONFIGS[f"DiT-{size}/2"]
    assert found == {on: count(replace(config, learn_sigma=on)) for on in (True, False)}
    assert round(found[True] / 1e6) == millions
    # the second half of the readout, 16 numbers a patch
    assert found[True] - found[False] == 16 * (config.width + 1)


@pytest.mark.parametrize(
    ("name", "shape"), [("DiT-fashion", (1, 28, 28)), ("DiT-fashion-latent", (4, 7, 7))]
)
def test_the_small_configs_have_49_tokens_and_ten_classes(
    name: str, shape: tuple[int, ...]
) -> None:
    model = DiT.from_name(name)
    x = torch.randn(2, *shape)
    assert model(x, torch.tensor(0.5), torch.tensor([0, 9])).shape == x.shape
    assert {h.shape for h in model.hidden(x, torch.tensor(0.5))} == {(2, 49, 96)}
    assert sum(p.numel() for p in model.parameters()) == count(CONFIGS[name])
    assert model.null == 10


# --- the network against others


def as_diffusers(model: DiT) -> DiTTransformer2DModel:
    """The same network in diffusers, which repeats the embedders in every block."""
    c, state = model.config, model.state_dict()
    peer = DiTTransformer2DModel(
        num_attention_heads=c.heads, attention_head_dim=c.width // c.heads,
        in_channels=c.channels, out_channels=2 * c.channels, num_layers=c.depth,
        attention_bias=True, sample_size=c.size, patch_size=c.patch,
        num_embeds_ada_norm=c.classes, norm_eps=1e-6,
    ).eval()  # fmt: skip
    names = {"pos_embed.proj": "x_embedder.proj", "proj_out_1": "final_layer.adaLN_modulation.1",
             "proj_out_2": "final_layer.linear"}  # fmt: skip
    for k in range(c.depth):
        theirs, ours = f"transformer_blocks.{k}.", f"blocks.{k}."
        names |= {
            theirs + "norm1.emb.timestep_embedder.linear_1": "t_embedder.mlp.0",
            theirs + "norm1.emb.timestep_embedder.linear_2": "t_embedder.mlp.2",
            theirs + "norm1.emb.class_embedder.embedding_table": "y_embedder.embedding_table",
            theirs + "norm1.linear": ours + "adaLN_modulation.1",
            theirs + "attn1.to_out.0": ours + "attn.proj",
            theirs + "ff.net.0.proj": ours + "mlp.fc1",
            theirs + "ff.net.2": ours + "mlp.fc2",
        }
        # the released weights' frequencies; the class of diffusers spaces them otherwise
        peer.transformer_blocks[k].norm1.emb.time_proj.downscale_freq_shift = 0
    mapped = {}
    for theirs, ours in names.items():
        for part in ("weight", "bias"):
            if f"{ours}.{part}" in state:
                mapped[f"{theirs}.{part}"] = state[f"{ours}.{part}"]
    for k in range(c.depth):
        for part in ("weight", "bias"):
            three = state[f"blocks.{k}.attn.qkv.{part}"].chunk(3)
            for letter, piece in zip("qkv", three, strict=True):
                mapped[f"transformer_blocks.{k}.attn1.to_{letter}.{part}"] = piece
    peer.load_state_dict(mapped, strict=True)
    return peer


@torch.no_grad()
def test_it_computes_what_diffusers_computes() -> None:
    model = random_dit()
    x, t, label = inputs()
    peer = as_diffusers(model)
    torch.testing.assert_close(model.pos_embed, peer.pos_embed.pos_embed)
    steps = (1000 * t).round().long()
    expected = peer(x, steps, label).sample
    assert float(expected.abs().max()) > 1
    found = torch.cat(model.halves(x, t, label), 1)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(model(x, t, label), found[:, :3])
    # and at the index from which official weights learned
    torch.testing.assert_close(
        Indexed(model)(x, t, label), peer(x, steps - 1, label).sample[:, :3], rtol=1e-5, atol=1e-5
    )


@torch.no_grad()
def test_no_label_is_the_null_class() -> None:
    model = random_dit()
    x, t, _ = inputs()
    null = torch.full((5,), 7)
    expected = as_diffusers(model)(x, (1000 * t).round().long(), null).sample[:, :3]
    torch.testing.assert_close(model(x, t), expected, rtol=1e-5, atol=1e-5)
    assert model.null == 7


def test_attention_is_a_softmax_of_products() -> None:
    torch.manual_seed(0)
    layer, h = Attention(12, 3, qkv_bias=True).double(), torch.randn(2, 5, 12, dtype=F64)
    qkv = h @ layer.qkv.weight.T + layer.qkv.bias
    expected = torch.empty(2, 5, 12, dtype=F64)
    for n in range(2):
        for head in range(3):
            at = slice(4 * head, 4 * head + 4)
            q, k, v = (qkv[n, :, 12 * j : 12 * j + 12][:, at] for j in range(3))
            scores = torch.exp(q @ k.T / 2)
            expected[n, :, at] = scores / scores.sum(1, keepdim=True) @ v
    expected = expected @ layer.proj.weight.T + layer.proj.bias
    torch.testing.assert_close(layer(h), expected, rtol=1e-12, atol=1e-12)


def test_gelu_is_the_same_with_gradients_and_without() -> None:
    x = torch.cat([torch.linspace(-12, 12, 4001, dtype=F64), torch.tensor([-1e3, 1e3]).double()])
    expected = x / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    kept = x.clone()
    for enabled in (True, False):
        with torch.set_grad_enabled(enabled):
            torch.testing.assert_close(gelu_tanh(x), expected, rtol=1e-9, atol=1e-14)
    assert torch.equal(x, kept)
    for low in (torch.float32, torch.bfloat16):
        with torch.no_grad():
            exact = F.gelu(x.to(low), approximate="tanh")
            torch.testing.assert_close(gelu_tanh(x.to(low)), exact)


def test_hidden_tokens_are_those_of_the_network_cut_off_there() -> None:
    model = random_dit()
    x, t, label = inputs()
    states = model.hidden(x, t, label)
    assert len(states) == 3
    for k, found in enumerate(states, 1):
        short = DiT(replace(SMALL, depth=k))
        kept = {n: v for n, v in model.state_dict().items() if n in short.state_dict()}
        short.load_state_dict(kept)
        # what the cut network reads out, from its tokens by hand
        c = F.silu(short.t_embedder(t) + short.y_embedder.embedding_table(label))
        shift, scale = short.final_layer.adaLN_modulation[1](c)[:, None].chunk(2, -1)
        normed = (found - found.mean(-1, keepdim=True)) / (
            found.var(-1, keepdim=True, correction=0) + 1e-6
        ).sqrt()
        pixels = short.final_layer.linear(normed * (1 + scale) + shift)
        torch.testing.assert_close(
            unpatchify(pixels, 2)[:, :3], short(x, t, label), rtol=1e-4, atol=1e-4
        )


# --- start, time and place


@pytest.mark.parametrize("learn_sigma", [True, False])
def test_a_new_network_is_the_identity_with_an_output_of_zero(learn_sigma: bool) -> None:
    torch.manual_seed(0)
    model = DiT(replace(SMALL, learn_sigma=learn_sigma))
    x, t, label = inputs()
    assert torch.equal(model(x, t, label), torch.zeros_like(x))
    tokens = F.conv2d(x, model.x_embedder.proj.weight, model.x_embedder.proj.bias, 2)
    expected = tokens.flatten(2).transpose(1, 2) + model.pos_embed
    for state in model.hidden(x, t, label):
        torch.testing.assert_close(state, expected)


def test_a_new_network_is_drawn_as_the_original() -> None:
    torch.manual_seed(0)
    model = DiT.from_name("DiT-S/2", depth=1)
    block = model.blocks[0]
    for weight, outputs, ins in (
        (block.attn.qkv.weight, 1152, 384),  # type: ignore[union-attr]
        (block.mlp.fc1.weight, 1536, 384),  # type: ignore[union-attr]
        (model.x_embedder.proj.weight, 384, 16),
    ):
        bound = math.sqrt(6 / (outputs + ins))
        assert 0.99 * bound < float(weight.detach().abs().max()) <= bound  # type: ignore[operator]
        assert float(weight.detach().std()) == pytest.approx(bound / 3**0.5, rel=0.02)  # type: ignore[operator]
    table = model.y_embedder.embedding_table.weight
    for weight in (model.t_embedder.mlp[0].weight, model.t_embedder.mlp[2].weight, table):
        assert float(weight.detach().std()) == pytest.approx(0.02, rel=0.02)  # type: ignore[operator, union-attr]


def test_time_features_are_cosines_and_sines_of_a_thousand_t() -> None:
    t = np.array([0.0, 0.001, 0.3, 1.0])
    phase = 1000 * np.outer(t, [1e4 ** (-i / 5) for i in range(5)])
    expected = torch.from_numpy(np.concatenate([np.cos(phase), np.sin(phase)], 1))
    torch.testing.assert_close(time_features(torch.from_numpy(t), 10), expected)
    assert time_features(torch.tensor([0.5]).bfloat16(), 10).dtype == torch.float32


def test_positions_are_sines_and_cosines_of_column_and_row() -> None:
    found = sincos_positions(16, 3)[0]
    for row in range(3):
        for column in range(3):
            expected = [
                wave(place * 1e4 ** (-i / 4))
                for place in (column, row) for wave in (math.sin, math.cos) for i in range(4)
            ]  # fmt: skip
            torch.testing.assert_close(found[3 * row + column], torch.tensor(expected))


class Heard(nn.Module):
    """Keeps the times it is called with."""

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        self.t, self.label = t, label
        return x


@pytest.mark.parametrize("T", [1000, 50])
def test_indexed_counts_from_zero(T: int) -> None:
    heard, k = Heard(), torch.arange(T)
    x, label = torch.zeros(T, 1), torch.zeros(T).long()
    Indexed(heard, T)(x, (k + 1) / T, label)
    assert torch.equal(heard.t, k / 1000)
    assert heard.label is label
    Indexed(heard, T)(x, torch.tensor(0.0))
    assert float(heard.t) == 0
    with pytest.raises(ValueError, match="at least one time, got T = 0"):
        Indexed(heard, 0)


def test_one_time_serves_all_samples() -> None:
    model = random_dit()
    x, _, label = inputs()
    t = torch.tensor(0.3)
    assert torch.equal(model(x, t, label), model(x, t.expand(5), label))


# --- patches


sides = st.integers(1, 4)


@settings(max_examples=40)
@given(n=sides, channels=st.integers(1, 5), side=sides, patch=sides)
def test_unpatchify_undoes_patchify(n: int, channels: int, side: int, patch: int) -> None:
    x = torch.arange(n * channels * (side * patch) ** 2).view(n, channels, side * patch, -1)
    tokens = patchify(x, patch)
    assert tokens.shape == (n, side**2, patch**2 * channels)
    assert torch.equal(unpatchify(tokens, patch), x)
    for i, j, c in ((0, 0, 0), (side - 1, 0, channels - 1), (side // 2, side - 1, channels // 2)):
        a, b = patch - 1, patch // 2
        at = (a * patch + b) * channels + c
        assert tokens[0, i * side + j, at] == x[0, c, i * patch + a, j * patch + b]


# --- what changes only the speed


@torch.no_grad()
def test_a_compiled_network_says_the_same() -> None:
    model = random_dit(replace(SMALL, depth=1))
    # the C++ is built without its optimisations, for time
    quickly = {"aot_inductor.debug_compile": True}
    found = torch.compile(model, fullgraph=True, options=quickly)(*inputs())
    torch.testing.assert_close(found, model(*inputs()), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_bfloat16_says_the_same_within_its_precision() -> None:
    model = random_dit()
    exact = model(*inputs())
    with torch.autocast("cpu", torch.bfloat16):
        rough = model(*inputs())
    apart = float((rough.float() - exact).norm() / exact.norm())
    # products are rounded to 8 bits, 2^-9 = 0.2 %, and there are three blocks
    assert 0 < apart < 0.02


# --- what is refused


def test_a_network_without_classes_takes_no_label() -> None:
    model = random_dit(replace(SMALL, classes=0))
    assert not any(name.startswith("y_embedder") for name in model.state_dict())
    x, t, label = inputs()
    # a zero table of labels is no label
    twin = DiT(SMALL)
    table = torch.zeros(8, 24)
    twin.load_state_dict(model.state_dict() | {"y_embedder.embedding_table.weight": table})
    torch.testing.assert_close(model(x, t), twin(x, t))
    with pytest.raises(ValueError, match="takes no label"):
        model(x, t, label)


def test_only_a_network_with_a_variance_has_two_halves() -> None:
    with pytest.raises(ValueError, match="learn_sigma=True"):
        DiT(replace(SMALL, learn_sigma=False)).halves(*inputs())


def test_wrong_inputs_are_refused() -> None:
    model = DiT(SMALL)
    x, t, label = inputs()
    with pytest.raises(ValueError, match=r"x must be \(N, 3, 12, 12\), got \(5, 3, 12, 6\)"):
        model(x[..., :6], t, label)
    with pytest.raises(ValueError, match=r"t must be a scalar or \(5,\), got \(4,\)"):
        model(x, t[:4], label)
    with pytest.raises(ValueError, match=r"label must be \(5,\) int64, got \(5,\) torch.float32"):
        model(x, t, label.float())


def test_unknown_names_and_fields_are_refused() -> None:
    with pytest.raises(ValueError, match="no model is called 'DiT-XXL/2'; there are DiT-S/2, DiT"):
        DiT.from_name("DiT-XXL/2")
    with pytest.raises(ValueError, match="DiT-S/2 has no dropout; it has size, channels, patch"):
        DiT.from_name("DiT-S/2", dropout=0.1)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"depth": 0}, "depth must be at least 1, got 0"),
        ({"classes": -1}, "classes must be 0"),
        ({"patch": 5}, "patch 5 does not divide the image side 12"),
        ({"width": 30}, "width must be a multiple of 4 and of the 2 heads, got 30"),
        ({"heads": 5}, "of the 5 heads, got 24"),
    ],
)
def test_wrong_sizes_are_refused(wrong: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **wrong)  # type: ignore[arg-type]
