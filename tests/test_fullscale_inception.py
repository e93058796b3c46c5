"""The Inception network against its published names and a direct computation in float64."""

import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view
from safetensors.torch import save_file
from torch import Tensor, nn

from erdpaper.fullscale.evaluation import extractors
from erdpaper.fullscale.evaluation.inception import Inception, resize

CPU = torch.device("cpu")
Array = np.ndarray[Any, Any]

# outputs, inputs, height and width of every kernel in the port's state dict
PUBLISHED = """
Conv2d_1a_3x3 32 3 3 3
Conv2d_2a_3x3 32 32 3 3
Conv2d_2b_3x3 64 32 3 3
Conv2d_3b_1x1 80 64 1 1
Conv2d_4a_3x3 192 80 3 3
""" + "".join(
    f"""
Mixed_5{letter}.branch1x1 64 {n} 1 1
Mixed_5{letter}.branch5x5_1 48 {n} 1 1
Mixed_5{letter}.branch5x5_2 64 48 5 5
Mixed_5{letter}.branch3x3dbl_1 64 {n} 1 1
Mixed_5{letter}.branch3x3dbl_2 96 64 3 3
Mixed_5{letter}.branch3x3dbl_3 96 96 3 3
Mixed_5{letter}.branch_pool {pooled} {n} 1 1
"""
    for letter, n, pooled in (("b", 192, 32), ("c", 256, 64), ("d", 288, 64))
)
PUBLISHED += """
Mixed_6a.branch3x3 384 288 3 3
Mixed_6a.branch3x3dbl_1 64 288 1 1
Mixed_6a.branch3x3dbl_2 96 64 3 3
Mixed_6a.branch3x3dbl_3 96 96 3 3
""" + "".join(
    f"""
Mixed_6{letter}.branch1x1 192 768 1 1
Mixed_6{letter}.branch7x7_1 {n} 768 1 1
Mixed_6{letter}.branch7x7_2 {n} {n} 1 7
Mixed_6{letter}.branch7x7_3 192 {n} 7 1
Mixed_6{letter}.branch7x7dbl_1 {n} 768 1 1
Mixed_6{letter}.branch7x7dbl_2 {n} {n} 7 1
Mixed_6{letter}.branch7x7dbl_3 {n} {n} 1 7
Mixed_6{letter}.branch7x7dbl_4 {n} {n} 7 1
Mixed_6{letter}.branch7x7dbl_5 192 {n} 1 7
Mixed_6{letter}.branch_pool 192 768 1 1
"""
    for letter, n in (("b", 128), ("c", 160), ("d", 160), ("e", 192))
)
PUBLISHED += """
Mixed_7a.branch3x3_1 192 768 1 1
Mixed_7a.branch3x3_2 320 192 3 3
Mixed_7a.branch7x7x3_1 192 768 1 1
Mixed_7a.branch7x7x3_2 192 192 1 7
Mixed_7a.branch7x7x3_3 192 192 7 1
Mixed_7a.branch7x7x3_4 192 192 3 3
""" + "".join(
    f"""
Mixed_7{letter}.branch1x1 320 {n} 1 1
Mixed_7{letter}.branch3x3_1 384 {n} 1 1
Mixed_7{letter}.branch3x3_2a 384 384 1 3
Mixed_7{letter}.branch3x3_2b 384 384 3 1
Mixed_7{letter}.branch3x3dbl_1 448 {n} 1 1
Mixed_7{letter}.branch3x3dbl_2 384 448 3 3
Mixed_7{letter}.branch3x3dbl_3a 384 384 1 3
Mixed_7{letter}.branch3x3dbl_3b 384 384 3 1
Mixed_7{letter}.branch_pool 192 {n} 1 1
"""
    for letter, n in (("b", 1280), ("c", 2048))
)


def published_shapes() -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {"fc.weight": (1008, 2048), "fc.bias": (1008,)}
    for line in filter(None, PUBLISHED.splitlines()):
        name, *sizes = line.split()
        found[f"{name}.conv.weight"] = tuple(map(int, sizes))
        for part in ("weight", "bias", "running_mean", "running_var"):
            found[f"{name}.bn.{part}"] = (int(sizes[0]),)
    return found


def shuffled(divisor: int, seed: int = 0) -> Inception:
    """Weights that let every part of the network show."""
    network, generator = Inception(divisor).double(), torch.Generator().manual_seed(seed)
    spread = {"weight": (0.5, 1.5), "bias": (-0.2, 0.3), "running_mean": (-0.2, 0.2)}
    for part in network.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, nonlinearity="relu", generator=generator)
        elif isinstance(part, nn.BatchNorm2d):
            for name, (low, high) in (spread | {"running_var": (0.5, 2.0)}).items():
                getattr(part, name).data.uniform_(low, high, generator=generator)
    return network


def test_names_and_shapes_are_the_ports() -> None:
    with torch.device("meta"):
        network = Inception()
    found = {n: tuple(p.shape) for n, p in network.state_dict().items() if "num_batches" not in n}
    assert found == published_shapes() and len(found) == 94 * 5 + 2
    # torchvision's network has 27,161,264 parameters, 3,326,696 of them in an auxiliary head,
    # and 1,000 classes
    parameters = sum(part.numel() for part in network.parameters())
    assert parameters == 27_161_264 - 3_326_696 + 8 * (2048 + 1)


class Direct:
    """The network once more, in numpy: a convolution is a sum over windows."""

    def __init__(self, network: Inception) -> None:
        self.state = {name: part.numpy() for name, part in network.state_dict().items()}

    def conv(self, x: Array, name: str, stride: int = 1, same: bool = False) -> Array:
        kernel = self.state[f"{name}.conv.weight"]
        height, width = kernel.shape[2:]
        if same:
            x = np.pad(x, ((0, 0), (height // 2,) * 2, (width // 2,) * 2))
        windows = sliding_window_view(x, (height, width), (1, 2))[:, ::stride, ::stride]
        y = np.einsum("chwij,ocij->ohw", windows, kernel, optimize=True)
        g, b, m, v = (
            self.state[f"{name}.bn.{part}"][:, None, None]
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        return np.maximum(g * (y - m) / np.sqrt(v + 0.001) + b, 0)

    def chain(self, x: Array, block: str, *names: str, last: int = 1) -> Array:
        for name in names[:-1]:
            x = self.conv(x, f"{block}.{name}", same=True)
        return self.conv(x, f"{block}.{names[-1]}", stride=last, same=last == 1)

    @staticmethod
    def average(x: Array) -> Array:
        """The mean over those of 3x3 neighbours that exist."""
        result = np.empty_like(x)
        for i in range(x.shape[1]):
            for j in range(x.shape[2]):
                near = x[:, max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2]
                result[:, i, j] = near.mean((1, 2))
        return result

    @staticmethod
    def largest(x: Array, stride: int = 2) -> Array:
        if stride == 1:
            x = np.pad(x, ((0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
        windows: Array = sliding_window_view(x, (3, 3), (1, 2))[:, ::stride, ::stride]
        return windows.max((3, 4))

    def features(self, x: Array) -> tuple[Array, Array, Array]:
        x = (x - 128) / 128
        x = self.conv(self.conv(x, "Conv2d_1a_3x3", 2), "Conv2d_2a_3x3")
        x = self.largest(self.conv(x, "Conv2d_2b_3x3", same=True))
        x = self.largest(self.conv(self.conv(x, "Conv2d_3b_1x1"), "Conv2d_4a_3x3"))
        for b in ("Mixed_5b", "Mixed_5c", "Mixed_5d"):
            pooled = self.chain(self.average(x), b, "branch_pool")
            five = self.chain(x, b, "branch5x5_1", "branch5x5_2")
            three = self.chain(x, b, *(f"branch3x3dbl_{i}" for i in (1, 2, 3)))
            x = np.concatenate([self.chain(x, b, "branch1x1"), five, three, pooled])
        b = "Mixed_6a"
        three = self.chain(x, b, *(f"branch3x3dbl_{i}" for i in (1, 2, 3)), last=2)
        x = np.concatenate([self.chain(x, b, "branch3x3", last=2), three, self.largest(x)])
        spatial = x
        for b in ("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"):
            one = self.chain(x, b, "branch1x1")
            spatial = one if b == "Mixed_6d" else spatial
            seven = self.chain(x, b, *(f"branch7x7_{i}" for i in (1, 2, 3)))
            twice = self.chain(x, b, *(f"branch7x7dbl_{i}" for i in (1, 2, 3, 4, 5)))
            x = np.concatenate([one, seven, twice, self.chain(self.average(x), b, "branch_pool")])
        b = "Mixed_7a"
        three = self.chain(x, b, "branch3x3_1", "branch3x3_2", last=2)
        seven = self.chain(x, b, *(f"branch7x7x3_{i}" for i in (1, 2, 3, 4)), last=2)
        x = np.concatenate([three, seven, self.largest(x)])
        for b, pool in (("Mixed_7b", self.average), ("Mixed_7c", lambda y: self.largest(y, 1))):
            three = self.chain(x, b, "branch3x3_1")
            twice = self.chain(x, b, "branch3x3dbl_1", "branch3x3dbl_2")
            parts = [self.chain(x, b, "branch1x1")]
            parts += [self.chain(three, b, f"branch3x3_2{i}") for i in "ab"]
            parts += [self.chain(twice, b, f"branch3x3dbl_3{i}") for i in "ab"]
            x = np.concatenate([*parts, self.chain(pool(x), b, "branch_pool")])
        means = x.mean((1, 2))
        exponent = np.exp(self.state["fc.weight"] @ means)
        return means, spatial[:1].transpose(1, 2, 0).reshape(-1), exponent / exponent.sum()


def test_every_block_is_the_direct_computation() -> None:
    network = shuffled(16)
    generator = np.random.default_rng(0)
    # already of the network's size, so that no resizing comes in between
    image = generator.uniform(0, 255, (3, 299, 299))
    found = network(torch.from_numpy(image)[None])
    expected = Direct(network).features(image)
    assert [part.shape for part in expected] == [(128,), (289,), (1008,)]
    for mine, theirs in zip(found, expected, strict=True):
        assert isinstance(mine, Tensor)
        np.testing.assert_allclose(mine[0].numpy(), theirs, rtol=1e-9, atol=1e-12)
        assert theirs.std() > 0.05 * theirs.mean() > 0


def test_the_published_width() -> None:
    network = Inception()
    seen: list[Tensor] = []
    network.Mixed_6d.branch1x1.register_forward_hook(lambda *args: seen.append(args[2]))
    found = network(torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8))
    assert found.pool.shape == (1, 2048) and found.probabilities is not None
    assert found.probabilities.shape == (1, 1008) and found.spatial is not None
    # rows, columns, channels, in the order of TensorFlow
    assert torch.equal(found.spatial.view(17, 17, 7), seen[0][0, :7].permute(1, 2, 0))


def test_resizing_by_hand() -> None:
    row = torch.tensor([[[[0.0, 10.0, 40.0]]]])
    # pixel i lies at 3 i / 4: 0, 0.75, 1.5, 2.25, the last one beyond the last of the source
    assert torch.equal(resize(row, 4)[0, 0, 0], torch.tensor([0.0, 7.5, 25.0, 40.0]))
    assert torch.equal(resize(row, 4)[0, 0, 3], torch.tensor([0.0, 7.5, 25.0, 40.0]))
    # downwards, every second pixel and no smoothing
    assert torch.equal(
        resize(torch.arange(4.0).repeat(1, 1, 4, 1), 2)[0, 0, 0], torch.tensor([0.0, 2.0])
    )
    tall = torch.tensor([[0.0], [8.0]]).view(1, 1, 2, 1)
    assert torch.equal(resize(tall, 4)[0, 0, :, 0], torch.tensor([0.0, 4.0, 8.0, 8.0]))
    same = torch.rand(2, 3, 299, 299)
    assert torch.equal(resize(same), same)


def test_resizing_is_not_that_of_later_conventions() -> None:
    x = torch.rand(1, 1, 8, 8)
    later = nn.functional.interpolate(x, size=(299, 299), mode="bilinear", align_corners=False)
    # the same picture, shifted by half a pixel of the source less half a pixel of the result
    shift = (0.5 - 0.5 * 8 / 299) * 299 / 8
    inner = slice(0, 280)
    moved = torch.roll(later, (-round(shift),) * 2, (2, 3))
    assert not torch.allclose(resize(x), later, atol=0.05)
    assert torch.allclose(resize(x)[..., inner, inner], moved[..., inner, inner], atol=0.02)


def save_port(path: Path, divisor: int = 16) -> Inception:
    network = shuffled(divisor).float()
    state = {n: p for n, p in network.state_dict().items() if "num_batches" not in n}
    torch.save(state, path)
    return network


def test_every_format_gives_the_same_features(tmp_path: Path) -> None:
    network = save_port(tmp_path / "port.pth")
    extractors.keep(tmp_path / "port.pth", tmp_path / "kept.safetensors")
    torch.save(network.state_dict(), tmp_path / "counted.pth")
    torch.save(network.state_dict(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    images = torch.randint(0, 256, (2, 20, 30, 3), dtype=torch.uint8)
    expected = network(images.permute(0, 3, 1, 2))
    for name in ("port.pth", "kept.safetensors", "counted.pth", "old.pth"):
        extractor = extractors.load(tmp_path / name, CPU)
        assert extractor.protocol is None and extractor.name == name
        for mine, theirs in zip(extractor(images), expected, strict=True):
            assert torch.equal(mine, theirs)
    grey = extractor(images[..., :1])
    assert torch.equal(grey.pool, extractor(images[..., :1].expand(-1, -1, -1, 3)).pool)


def test_only_published_weights_carry_the_protocol(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert {sha[:8]: name for sha, name in extractors.PUBLISHED.items()} == {
        # torch names files after the first digits of their sha256
        "6726825d": "pt_inception-2015-12-05-6726825d.pth",
        "f58cb9b6": "inception-2015-12-05.pt",
    }
    save_port(tmp_path / "port.pth")
    extractors.keep(tmp_path / "port.pth", tmp_path / "kept.safetensors")
    extractors.stand_in(tmp_path / "other.safetensors")
    digest = extractors.sha256(tmp_path / "port.pth")
    monkeypatch.setattr(extractors, "PUBLISHED", {digest: "as if"})
    found = {p.name: extractors.load(p, CPU).protocol for p in tmp_path.iterdir()}
    assert found == {
        "port.pth": "ADM Inception",
        "kept.safetensors": "ADM Inception",
        "other.safetensors": None,
    }


def test_a_stand_in_tells_images_apart(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        extractors.stand_in(tmp_path / f"{name}.safetensors", seed)
    same = [(tmp_path / f"{name}.safetensors").read_bytes() for name in "abc"]
    assert same[0] == same[1] != same[2]
    extractor = extractors.load(tmp_path / "a.safetensors", CPU)
    images = torch.zeros(2, 8, 8, 3, dtype=torch.uint8)
    images[1] = torch.randint(0, 256, (8, 8, 3))
    pool = extractor(images).pool
    assert (pool[0] - pool[1]).norm() > 0.05 * pool.norm()


class Layers(nn.Module):
    """A small module that is called as StyleGAN's, with layers of its names."""

    def __init__(self, spatial: bool) -> None:
        super().__init__()
        self.layers = nn.Sequential()
        self.layers.add_module("conv", nn.Conv2d(3, 8, 3, stride=9))
        if spatial:
            self.layers.add_module("mixed_5", nn.ReLU())
            self.layers.add_module("mixed_6", Mixed())
        self.layers.add_module("pool2", nn.AdaptiveAvgPool2d(1))
        self.output = nn.Linear(8, 5)

    def forward(
        self, img: Tensor, return_features: bool = False, no_output_bias: bool = False
    ) -> Tensor:
        x = self.layers((img.float() - 128) / 128).flatten(1)
        if return_features:
            return x
        if no_output_bias:
            return nn.functional.linear(x, self.output.weight).softmax(1)
        return self.output(x).softmax(1)


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) * 2


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.parametrize("spatial", [True, False])
def test_torchscript_is_asked_as_the_published_file(tmp_path: Path, spatial: bool) -> None:
    torch.manual_seed(0)
    module = Layers(spatial).eval()
    torch.jit.script(module).save(str(tmp_path / "script.pt"))
    extractor = extractors.load(tmp_path / "script.pt", CPU)
    images = torch.randint(0, 256, (3, 299, 299, 3), dtype=torch.uint8)
    x = images.permute(0, 3, 1, 2)
    found = extractor(images)
    with torch.no_grad():
        assert torch.allclose(found.pool, module(x, return_features=True), atol=1e-6)
        assert found.probabilities is not None
        assert torch.allclose(found.probabilities, module(x, no_output_bias=True), atol=1e-6)
        if not spatial:
            assert found.spatial is None
            return
        early = module.layers[:2]((x.float() - 128) / 128)
        expected = module.layers.mixed_6.conv(early)[:, :7]  # type: ignore[union-attr, operator]
    assert found.spatial is not None and found.spatial.shape == (3, 7 * 33 * 33)
    assert torch.allclose(found.spatial.view(3, 33, 33, 7), expected.permute(0, 2, 3, 1), atol=1e-6)


def spoiled(path: Path, change: Callable[[dict[str, Tensor]], object]) -> Path:
    state = Inception(16).state_dict()
    change(state)
    save_file(state, path)
    return path


def test_what_is_no_inception_is_refused(tmp_path: Path) -> None:
    fetch = re.escape("fetch pt_inception-2015-12-05-6726825d.pth (96 MB) from https://github.com")
    with pytest.raises(ValueError, match=f"there are no Inception weights .*: {fetch}"):
        extractors.load(None, CPU)
    with pytest.raises(ValueError, match=f"missing.pth is missing: {fetch}"):
        extractors.load(tmp_path / "missing.pth", CPU)
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(ValueError, match=r"text.pth holds no weights that can be read"):
        extractors.load(tmp_path / "text.pth", CPU)
    (tmp_path / "text.safetensors").write_text("no weights")
    with pytest.raises(ValueError, match=r"text.safetensors holds no weights that can be read"):
        extractors.load(tmp_path / "text.safetensors", CPU)
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    with pytest.raises(ValueError, match=r"list.pth is no state dict of tensors"):
        extractors.load(tmp_path / "list.pth", CPU)
    path = spoiled(
        tmp_path / "a.safetensors", lambda state: state.pop("Mixed_6d.branch1x1.bn.bias")
    )
    with pytest.raises(
        ValueError, match=r"no Inception weights, Mixed_6d.branch1x1.bn.bias differs"
    ):
        extractors.load(path, CPU)
    path = spoiled(tmp_path / "b.safetensors", lambda state: state.pop("fc.weight"))
    with pytest.raises(ValueError, match=f"b.safetensors holds no Inception weights: {fetch}"):
        extractors.load(path, CPU)
    with pytest.raises(ValueError, match="the divisor must be 1, 2, 4, 8 or 16, got 3"):
        Inception(3)


def test_what_is_no_file_of_weights_is_one_sentence(tmp_path: Path) -> None:
    sentence = r"holds no weights that can be read \(.+\): fetch "
    for name, raw in (("text.pth", b"hello"), ("empty.pth", b""), ("a.safetensors", b"hello")):
        (tmp_path / name).write_bytes(raw)
        with pytest.raises(ValueError, match=f"{name} {sentence}"):
            extractors.load(tmp_path / name, CPU)
    with zipfile.ZipFile(tmp_path / "script.pt", "w") as archive:
        archive.writestr("script/code/a.py", "")
    with pytest.raises(ValueError, match=f"script.pt {sentence}") as caught:
        extractors.load(tmp_path / "script.pt", CPU)
    assert "\n" not in str(caught.value)


def test_nothing_in_a_file_can_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (print, ("ran",))

    torch.save({"fc.weight": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match=r"evil.pth holds no weights that can be read"):
        extractors.load(tmp_path / "evil.pth", CPU)
