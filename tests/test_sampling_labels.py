"""A seed and a label for each sample: the same image, whatever batch it is drawn in."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Normal

from erdpaper import guidance, sampling, schedules
from erdpaper.models.unet import UNet, UNetConfig
from erdpaper.sampling import noise, times

SEEDS = [7, 0, 123456789012, 3, 7, 42]
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])
SHAPE = (2, 8, 8)
CONFIG = UNetConfig(
    size=8, channels=2, widths=(16, 32), attention=(1,), layers=1, head=8, groups=4, classes=3
)


@settings(max_examples=50)
@given(seeds=st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=6), size=st.integers(1, 40))
def test_a_row_is_that_of_its_seed_alone(seeds: list[int], size: int) -> None:
    rows = noise.per_sample(seeds, (size,))
    assert rows.dtype == torch.float32
    for seed, row in zip(seeds, rows, strict=True):
        assert torch.equal(row, noise.per_sample([seed], [size])[0])
        generator = torch.Generator().manual_seed(seed)
        assert torch.equal(row, torch.randn(size, generator=generator))


def test_rows_of_different_seeds_are_independent_normal_noise() -> None:
    rows = noise.per_sample(range(400), (3, 4, 4), torch.float64)
    assert rows.shape == (400, 3, 4, 4) and rows.dtype == torch.float64
    # Kolmogorov-Smirnov, where 1.95 / sqrt(n) is passed once in a thousand
    ordered = rows.flatten().sort().values
    steps = torch.arange(1, len(ordered) + 1) / len(ordered)
    assert float((Normal(0, 1).cdf(ordered) - steps).abs().max()) < 1.95 / len(ordered) ** 0.5
    flat = rows.flatten(1)
    correlation = (flat[1:] * flat[:-1]).mean()
    assert abs(float(correlation)) < 4 / flat[1:].numel() ** 0.5


def test_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    noise.per_sample(SEEDS, SHAPE)
    assert torch.equal(torch.rand(3), expected)


def drawn(rows: list[int], batch: int, scale: float) -> Tensor:
    """The images of some rows, sampled in batches of a size."""
    torch.manual_seed(0)
    net = UNet(CONFIG).double().eval()
    schedule = schedules.Cosine()
    images = []
    for some in torch.tensor(rows).split(batch):
        start = noise.per_sample([SEEDS[k] for k in some.tolist()], SHAPE, torch.float64)
        denoise = guidance.cfg(net, schedule, "v", LABELS[some], scale, net.null)
        images.append(sampling.ddim(denoise, start, schedule, times.uniform(6)))
    return torch.cat(images)


@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_an_image_is_the_same_in_every_batch(scale: float) -> None:
    together = drawn(list(range(6)), 6, scale)
    for batch in (1, 4):
        torch.testing.assert_close(drawn(list(range(6)), batch, scale), together)
    turned = [5, 2, 0, 4, 1, 3]
    torch.testing.assert_close(drawn(turned, 2, scale), together[turned])
    # rows 0 and 4 start from one seed and differ by their label alone
    assert not torch.allclose(together[0], together[4], rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("seeds", [[], [-1], [2**63], [1.5], ["1"]])
def test_bad_seeds_get_one_sentence(seeds: list[int]) -> None:
    with pytest.raises(ValueError, match=r"one or more integers in \[0, 2\^63\)"):
        noise.per_sample(seeds, SHAPE)
