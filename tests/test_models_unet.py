"""UNets, against diffusers called by hand."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from erdpaper.models.unet import CONFIGS, UNet, UNetConfig

SMALL = UNetConfig(
    size=8, channels=2, widths=(16, 32), attention=(1,), layers=1, head=8, groups=4, classes=3
)
# the same by hand, and the smallest network in the manner of ADM
BY_HAND = {
    "sample_size": 8,
    "in_channels": 2,
    "out_channels": 2,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "attention_head_dim": 8,
    "norm_num_groups": 4,
}
ADM_BY_HAND = BY_HAND | {
    "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "ResnetUpsampleBlock2D"),
    "downsample_type": "resnet",
    "upsample_type": "resnet",
    "resnet_time_scale_shift": "scale_shift",
    "attn_norm_num_groups": 4,
}


def unet(config: UNetConfig = SMALL, seed: int = 0) -> UNet:
    torch.manual_seed(seed)
    return UNet(config).double().eval()


def images(n: int = 5, config: UNetConfig = SMALL) -> Tensor:
    shape = (n, config.channels, config.size, config.size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


T = torch.tensor([0.001, 0.2, 0.5, 0.8, 1.0], dtype=torch.float64)
LABEL = torch.tensor([0, 1, 2, 1, 3])


# time added, sizes changed by residual blocks
BIGGAN_BY_HAND = {k: v for k, v in ADM_BY_HAND.items() if k != "resnet_time_scale_shift"}


@pytest.mark.parametrize(
    ("kind", "by_hand"),
    [({}, BY_HAND), ({"adm": True}, ADM_BY_HAND), ({"biggan": True}, BIGGAN_BY_HAND)],
)
def test_it_is_the_network_of_diffusers_at_1000_t(
    kind: dict[str, bool], by_hand: dict[str, object]
) -> None:
    net = unet(replace(SMALL, **kind))
    other = UNet2DModel(num_class_embeds=4, **by_hand).double().eval()  # type: ignore[no-untyped-call]
    other.load_state_dict(net.unet.state_dict())
    steps = torch.tensor([1.0, 200.0, 500.0, 800.0, 1000.0])
    expected = other(images(), steps, class_labels=LABEL).sample
    torch.testing.assert_close(net(images(), T, LABEL), expected, rtol=1e-4, atol=1e-5)
    # far from what it gives at other times, so that the factor of t is seen
    assert not torch.allclose(net(images(), 0.5 * T, LABEL), expected, rtol=1e-2, atol=1e-3)


def test_a_network_without_classes_is_that_of_diffusers_without_classes() -> None:
    net = unet(replace(SMALL, classes=0))
    other = UNet2DModel(**BY_HAND).double().eval()  # type: ignore[no-untyped-call]
    other.load_state_dict(net.unet.state_dict())
    expected = other(images(), torch.tensor(500)).sample
    torch.testing.assert_close(net(images(), torch.tensor(0.5)), expected)
    with pytest.raises(ValueError, match="no classes, so it takes no label"):
        net(images(), T, LABEL)


def test_a_class_is_added_to_the_embedded_time() -> None:
    net = unet()
    other = UNet2DModel(**BY_HAND).double().eval()  # type: ignore[no-untyped-call]
    rows = net.unet.class_embedding.weight  # type: ignore[union-attr]
    for label in range(4):
        state = {k: v.clone() for k, v in net.unet.state_dict().items() if "class" not in k}
        state["time_embedding.linear_2.bias"] += rows[label]  # type: ignore[operator, index]
        other.load_state_dict(state)
        expected = other(images(1), torch.tensor(300.0)).sample
        shown = net(images(1), torch.tensor(0.3), torch.tensor([label]))
        torch.testing.assert_close(shown, expected, rtol=1e-6, atol=1e-6)


def test_no_label_is_the_null_class_for_all() -> None:
    net = unet()
    assert net.null == 3
    assert torch.equal(net(images(), T), net(images(), T, torch.full((5,), 3)))
    assert not torch.allclose(net(images(), T), net(images(), T, torch.zeros(5).long()))


def test_each_image_has_its_own_time_and_label() -> None:
    net = unet()
    alone = [net(images()[i : i + 1], T[i], LABEL[i : i + 1]) for i in range(5)]
    torch.testing.assert_close(net(images(), T, LABEL), torch.cat(alone))


def test_one_time_serves_all_images() -> None:
    net = unet()
    t = torch.tensor(0.3, dtype=torch.float64)
    assert torch.equal(net(images(), t, LABEL), net(images(), t.expand(5), LABEL))


def test_labels_differ_after_one_step_where_they_did_not_before() -> None:
    net = unet()
    table = net.unet.class_embedding.weight  # type: ignore[union-attr]
    nn.init.zeros_(table)  # type: ignore[arg-type]
    same = images(1).expand(4, -1, -1, -1)
    label = torch.arange(4)
    before = net(same, T[1], label).detach()
    torch.testing.assert_close(before, before[:1].expand_as(before))
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1)
    wanted = torch.tensor([-1.0, 0.0, 1.0, 0.0]).reshape(4, 1, 1, 1)
    loss = (net(same, T[1], label) - wanted).square().mean()
    loss.backward()
    optimiser.step()
    after = net(same, T[1], label).detach().mean((1, 2, 3))
    assert float(after[0]) < float(after[1]) < float(after[2])
    # labels 1 and 3 wanted the same, and got it
    torch.testing.assert_close(after[1], after[3])


def resnet(i: int, o: int, time: int, adm: bool) -> int:
    """Norm and convolution, twice; what the time says to it; a 1x1 convolution past it."""
    told = (time + 1) * o * (2 if adm else 1)
    return 2 * i + (9 * i + 1) * o + told + 2 * o + (9 * o + 1) * o + (i != o) * (i + 1) * o


def count(config: UNetConfig) -> int:
    """The parameters of a UNet, from its drawing."""
    widths, layers, adm = config.widths, config.layers, config.adm
    first, last, time = widths[0], widths[-1], 4 * widths[0]
    attention = [2 * w + 4 * w * (w + 1) for w in widths]
    attends = [attention[k] if k in config.attention else 0 for k in range(len(widths))]
    inside = adm or config.biggan
    change = [resnet(w, w, time, adm) if inside else (9 * w + 1) * w for w in widths]
    n = (9 * config.channels + 1) * first + 2 * first + (9 * first + 1) * config.channels
    n += (first + 1) * time + (time + 1) * time
    n += (config.classes + 1) * time if config.classes else 0
    n += 2 * resnet(last, last, time, adm) + attention[-1]
    skips, h = [first], first
    for k, w in enumerate(widths):
        for _ in range(layers):
            n += resnet(h, w, time, adm) + attends[k]
            skips, h = [*skips, w], w
        if k < len(widths) - 1:
            n, skips = n + change[k], [*skips, w]
    for k, w in reversed(list(enumerate(widths))):
        for _ in range(layers + 1):
            n += resnet(h + skips.pop(), w, time, adm) + attends[k]
            h = w
        n += change[k] if k else 0
    return n


STATED = {
    "UNet-fashion": 1_806_529,
    "UNet-fashion-latent": 1_090_564,
    "UNet-celeba": 51_971_587,
    # the 79M of the paper's Table 2
    "UNet-celeba-ddim": 78_700_803,
    # the 62M of the paper's Table 2; 61,804,419 in the authors' code, see below
    "UNet-celeba-ddpmpp": 62_513_667,
    # google/ddpm-cifar10-32 has 35,746,307; 11 classes add 512 each
    "UNet-cifar10": 35_746_307 + 11 * 512,
}


@pytest.mark.parametrize("name", CONFIGS)
def test_the_named_networks_have_the_stated_sizes(name: str) -> None:
    with torch.device("meta"):
        net = UNet.from_name(name)
    counted = sum(p.numel() for p in net.parameters())
    assert counted == count(CONFIGS[name]) == STATED[name]


def test_what_is_left_out_of_ddpmpp_is_what_its_size_lacks() -> None:
    # that has no attention after 4 of the 5 blocks on the way up, and a 1x1 convolution past each
    # of the 6 blocks that change sizes
    attention, past = 2 * 256 + 4 * 257 * 256, [(w + 1) * w for w in (128, *5 * (256,))]
    assert STATED["UNet-celeba-ddpmpp"] - 4 * attention + sum(past) == 61_804_419


def test_a_network_for_latents_learns_to_see_noise() -> None:
    torch.manual_seed(0)
    net = UNet.from_name("UNet-fashion-latent")
    x = images(8, net.config).float()
    optimiser = torch.optim.Adam(net.parameters(), 2e-3)
    losses = []
    for _ in range(15):
        loss = (net(x, torch.tensor(1.0)) - x).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.4 < losses[0]


def test_overrides_replace_what_the_name_says() -> None:
    net = UNet.from_name("UNet-fashion-latent", classes=0, channels=3)
    assert net.config == replace(CONFIGS["UNet-fashion-latent"], classes=0, channels=3)
    assert net(torch.zeros(2, 3, 7, 7), torch.tensor(0.5)).shape == (2, 3, 7, 7)


def test_a_state_dict_survives_safetensors(tmp_path: Path) -> None:
    net, other = unet(seed=0), unet(seed=1)
    path = tmp_path / "net.safetensors"
    save_file(net.state_dict(), path)
    assert not torch.allclose(net(images(), T, LABEL), other(images(), T, LABEL))
    other.load_state_dict(load_file(path))
    assert torch.equal(net(images(), T, LABEL), other(images(), T, LABEL))


def test_diffusers_cannot_halve_an_odd_side_and_a_unet_says_so() -> None:
    two_levels = UNet2DModel(**BY_HAND)  # type: ignore[no-untyped-call]
    with pytest.raises(RuntimeError, match="Sizes of tensors must match"):
        two_levels(torch.zeros(1, 2, 7, 7), 1)
    with pytest.raises(ValueError, match="size must be a multiple of 2 for 2 levels, got 7"):
        replace(SMALL, size=7)
    one_level = unet(replace(SMALL, size=7, widths=(16,), attention=()))
    assert one_level(torch.zeros(1, 2, 7, 7).double(), T[:1]).shape == (1, 2, 7, 7)
    with pytest.raises(ValueError, match="a multiple of 8 for 4 levels, got 28"):
        replace(SMALL, size=28, widths=(16,) * 4)


BAD = [
    (lambda: replace(SMALL, channels=0), "channels must be at least 1, got 0"),
    (lambda: replace(SMALL, classes=-1), r"classes must be 0 \(no label\) or more, got -1"),
    (lambda: replace(SMALL, widths=()), "one or more multiples of the 4 groups"),
    (lambda: replace(SMALL, widths=(16, 34)), "multiples of the 4 groups, got"),
    (lambda: replace(SMALL, attention=(2,)), r"attention must name levels 0..1, got \(2,\)"),
    (lambda: replace(SMALL, head=24), "head must divide the widths that attend, got 24"),
    (lambda: replace(SMALL, dropout=1.0), r"dropout must lie in \[0, 1\), got 1.0"),
    (lambda: UNet.from_name("UNet-mnist"), "no UNet is called 'UNet-mnist'; there are UNet-fash"),
    (lambda: UNet.from_name("UNet-fashion", depth=3), "a UNet has no depth; it has size, chan"),
    (lambda: unet()(images()[:, :1], T), r"x must be \(N, 2, 8, 8\), got \(5, 1, 8, 8\)"),
    (lambda: unet()(images()[..., :6], T), r"x must be \(N, 2, 8, 8\), got \(5, 2, 8, 6\)"),
    (lambda: unet()(images(), T[:3]), r"t must be a scalar or \(5,\), got \(3,\)"),
    (lambda: unet()(images(), T, LABEL[:1]), r"label must be \(5,\) int64, got \(1,\)"),
    (lambda: unet()(images(), T, LABEL.double()), r"label must be \(5,\) int64, got"),
]


@pytest.mark.parametrize(("call", "message"), BAD)
def test_a_bad_argument_gets_one_sentence(call, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


@torch.no_grad()
def test_a_compiled_network_says_the_same() -> None:
    config = replace(SMALL, size=4, widths=(8,), attention=(0,))
    model = unet(config)
    asked = images(config=config), T, LABEL
    # the C++ is built without its optimisations, for time
    quickly = {"aot_inductor.debug_compile": True}
    found = torch.compile(model, options=quickly)(*asked)
    # diffusers embeds the time in single precision
    torch.testing.assert_close(found, model(*asked), rtol=0, atol=1e-7)
