"""The update of latent diffusion and the shapes of networks, against diffusers and by hand."""

import math

import matplotlib.pyplot as plt
import pytest
import torch
from diffusers import DDPMScheduler
from torch import Tensor, nn

from erdpaper import sampling, schedules
from erdpaper.background import architecture, drawing, latents
from erdpaper.models.dit import DiT
from erdpaper.sampling import Prediction

F64 = torch.float64


def denoise(x: Tensor, t: float) -> Prediction:
    """Neither linear nor consistent: any difference between updates shows."""
    eps = torch.sin(2 * x) + t
    alpha, sigma = schedules.DDPM()(t)
    return Prediction((x - sigma * eps) / alpha, eps)


@pytest.mark.parametrize(("large", "variance"), [(True, "fixed_large"), (False, "fixed_small")])
def test_the_update_is_that_of_diffusers(large: bool, variance: str) -> None:
    theirs = DDPMScheduler(clip_sample=False, variance_type=variance)
    x = torch.randn(4, 3, dtype=F64)
    # not the first indices, where their float32 table loses 1 - abar
    for k in (900, 400, 50):
        times = torch.tensor([(k + 1) / 1000, k / 1000], dtype=F64)
        (step,) = latents.steps(schedules.DDPM(), times)
        eps = denoise(x, (k + 1) / 1000).eps
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(k), dtype=F64)
        expected = theirs.step(eps, k, x, generator=torch.Generator().manual_seed(k)).prev_sample
        ours = latents.update(denoise, x, step, noise, large)
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=2e-5)


def test_along_a_grid_it_is_our_ddpm() -> None:
    schedule = schedules.DDPM()
    times = torch.tensor([0.9, 0.5, 0.2, 0.05, 0.0], dtype=F64)
    x = torch.randn(4, 3, dtype=F64)
    ours = latents.sample(denoise, x, schedule, times, torch.Generator().manual_seed(1))
    theirs = sampling.ddpm(denoise, x, schedule, times, torch.Generator().manual_seed(1))
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)
    with pytest.raises(ValueError, match="variance-preserving"):
        next(latents.steps(schedules.Linear(), times))


def test_band_power_of_a_wave() -> None:
    """A wave's power lies in the band of its frequency; the mean image counts for nothing."""
    place = torch.arange(28, dtype=F64)
    waves = [torch.cos(2 * math.pi * (3 * place / 28 + phase)) for phase in (0.0, 0.25, 0.5, 0.75)]
    images = 5 + torch.stack([wave.expand(28, 28) for wave in waves])[:, None]
    power = latents.band_power(images, 5)
    # 3/28 = 0.107 lies in the second fifth of 0..1/2
    assert power[1] > 0
    assert float(power[[0, 2, 3, 4]].max()) < 1e-20 * float(power[1]) + 1e-20


def test_band_power_of_white_noise_is_flat() -> None:
    noise = torch.randn(2_000, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    # E |FFT|^2 is the number of pixels
    torch.testing.assert_close(
        latents.band_power(noise, 4), torch.full((4,), 784.0, dtype=F64), rtol=0.02, atol=0
    )


def test_the_classic_u_net_has_the_sizes_of_its_paper() -> None:
    """572 pixels in, 388 out, 1,024 channels of 28 pixels at the bottom."""
    with torch.device("meta"):
        net, x = architecture.ClassicUNet(), torch.empty(1, 1, 572, 572)
    found = architecture.rows(architecture.seen(net, [f"down.{k}" for k in range(5)], x))
    assert [(row.channels, row.side) for row in found] == [
        (64, 568),
        (128, 280),
        (256, 136),
        (512, 64),
        (1024, 28),
    ]
    assert net(x).shape == (1, 1, 388, 388)
    assert architecture.rise(found) == 2
    # the published network has 31.0 M with two output classes
    assert architecture.parameters(net) == pytest.approx(31.03e6, rel=1e-3)


def test_rise_finds_the_ratio_farthest_from_two() -> None:
    made = [architecture.Row(str(c), c, 8) for c in (32, 64, 96)]
    assert architecture.rise(made) == pytest.approx(1.5)


def test_flops_of_a_linear_layer_and_shapes_of_parts() -> None:
    net = nn.Sequential(nn.Linear(10, 20, bias=False), nn.Linear(20, 5, bias=False))
    x = torch.zeros(3, 10)
    assert architecture.flops(net, x) == 2 * 3 * (10 * 20 + 20 * 5)
    assert architecture.parameters(net) == 300
    assert architecture.seen(net, ["0"], x) == {"0": (3, 20)}
    with pytest.raises(ValueError, match="no part called 7"):
        architecture.seen(net, ["7"], x)


def test_tokens_of_a_dit() -> None:
    net = DiT.from_name("DiT-fashion")
    x, t = torch.zeros(2, 1, 28, 28), torch.zeros(2)
    assert architecture.seen(net, ["blocks.0"], x, t)["blocks.0"] == (2, (28 // 4) ** 2, 96)


def test_a_chain_draws_its_nodes_and_arrows() -> None:
    figure, ax = plt.subplots()
    arrows = [drawing.Arrow(0, 1, "up", True), drawing.Arrow(1, 0, "down", False)]
    drawing.chain(ax, ["a", "b"], arrows, "two")
    assert {text.get_text() for text in ax.texts} == {"a", "b", "up", "down"}
    bends = [patch.get_path() for patch in ax.patches]
    heights = [path.vertices[1, 1] for path in bends]
    # encoders pass above the row and decoders below it
    assert heights[0] > 0.17
    assert heights[1] < -0.17
    plt.close(figure)
