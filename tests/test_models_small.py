"""The latent perceptron, the autoencoder and the classifier against their formulas in float64."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from by_hand import affine, arrays, condition, normed, residual
from small_training import CLASSES, SHAPE, network, normal
from torch import Tensor, nn

from erdpaper.images import tools
from erdpaper.models.autoencoder import Autoencoder, Config, Decoder
from erdpaper.models.classifier import Classifier
from erdpaper.models.latent_mlp import CONFIGS, LatentMLP
from erdpaper.training import Recipe, Trainer
from erdpaper.training.stream import generator_for

F64 = torch.float64


def inputs(n: int = 7) -> tuple[Tensor, Tensor, Tensor]:
    t = torch.linspace(0.05, 0.95, n, dtype=F64)
    return normal(n, *SHAPE, dtype=F64), t, torch.arange(n) % (CLASSES + 1)


# ---------------------------------------------------------------- the latent perceptron


def by_hand(net: LatentMLP, x: Tensor, t: Tensor, label: Tensor) -> list[np.ndarray]:
    """The states after every block and the output, in numpy from the state dict."""
    state, flat = arrays(net), x.flatten(1).numpy()
    c = condition(state, net.config.embedding, t, label)
    states, h = [], affine(state, "first", flat)
    for k in range(net.config.depth):
        h = residual(state, f"blocks.{k}", h, c)
        states.append(h)
    shift, scale = np.split(affine(state, "modulation", c), 2, 1)
    y = affine(state, "last", (1 + scale) * normed(h, 1e-6) + shift)
    y = y + affine(state, "modulated_gain", c) * flat
    return [*states, y.reshape(x.shape)]


def test_the_latent_perceptron_is_its_formula() -> None:
    net, (x, t, label) = network(dtype=F64), inputs()
    *states, y = by_hand(net, x, t, label)
    # frequencies are kept in float32
    found = [*net.hidden(x, t, label), net(x, t, label)]
    for mine, expected in zip(found, [*states, y], strict=True):
        np.testing.assert_allclose(mine.detach().numpy(), expected, rtol=0, atol=2e-5)


def test_hidden_is_what_forward_goes_through() -> None:
    net, (x, t, label) = network(dtype=F64), inputs()
    through: list[Tensor] = []
    for block in net.blocks:
        block.register_forward_hook(lambda module, args, out: through.append(out))
    net(x, t, label)
    forward, through[:] = list(through), []
    hidden = net.hidden(x, t, label)
    assert len(hidden) == len(forward) == 2
    assert all(map(torch.equal, hidden, forward)) and all(map(torch.equal, hidden, through))


def test_no_label_is_the_class_that_stands_for_none() -> None:
    net, (x, t, _) = network(dtype=F64), inputs()
    none = torch.full((len(x),), CLASSES)
    assert net.null == CLASSES
    assert torch.equal(net(x, t), net(x, t, none))
    assert all(map(torch.equal, net.hidden(x, t), net.hidden(x, t, none)))
    assert not torch.equal(net(x, t), net(x, t, none - 1))


def test_one_time_serves_all_samples() -> None:
    net, (x, t, label) = network(dtype=F64), inputs()
    assert torch.equal(net(x, t[3], label), net(x, t[3].expand(len(x)), label))


@pytest.mark.parametrize("name", CONFIGS)
def test_a_new_network_answers_zero_and_its_blocks_do_nothing(name: str) -> None:
    torch.manual_seed(0)
    net = LatentMLP.from_name(name)
    x = normal(5, *net.config.shape)
    t, label = torch.linspace(0, 1, 5), torch.arange(5)
    assert torch.equal(net(x, t, label), torch.zeros_like(x))
    first = net.first(x.flatten(1))
    assert all(torch.equal(h, first) for h in net.hidden(x, t, label))
    # nothing else was made 0
    w, e, d = net.config.width, net.config.embedding, math.prod(net.config.shape)
    zeros = sum(int((p == 0).sum()) for p in net.parameters())
    expected = net.config.depth * 3 * (e + 1) * w + 2 * (e + 1) * w + (e + 1) * d + (w + 1) * d
    assert zeros == expected
    assert float(net.label.weight.detach().std()) == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_latent_perceptrons_have_the_parameters_of_their_layers(name: str) -> None:
    net = LatentMLP.from_name(name)
    w, e, d = net.config.width, net.config.embedding, math.prod(net.config.shape)
    block = 3 * (e + 1) * w + 2 * (w + 1) * w
    around = 2 * (e + 1) * e + 11 * e + (d + 1) * w + 2 * (e + 1) * w + (w + 1) * d
    around += (e + 1) * d
    assert sum(p.numel() for p in net.parameters()) == net.config.depth * block + around


def test_unknown_networks_are_refused_with_what_is_known() -> None:
    with pytest.raises(ValueError, match="unknown network 'x'; use one of MLP-latent, MLP-latent-"):
        LatentMLP.from_name("x")
    with pytest.raises(ValueError, match="unknown autoencoder 'x'; use one of KL-fashion, "):
        Autoencoder.from_name("x")


# ---------------------------------------------------------------- the autoencoder


def autoencoder(**changes: Any) -> Autoencoder:
    torch.manual_seed(0)
    sizes = {"size": 8, "channels": 1, "fold": 2, "widths": (8, 8), "latent_channels": 3}
    return Autoencoder(Config(**(sizes | changes))).double().eval()


def images(n: int, size: int = 8, channels: int = 1) -> Tensor:
    return normal(n, channels, size, size, dtype=F64).tanh()


@torch.no_grad()
def test_latents_are_centred_and_have_one_scale() -> None:
    model, shown = autoencoder(), images(40)
    raw = model.posterior(shown)[0].numpy()
    assert raw.shape == (40, *model.shape) == (40, 3, 2, 2)
    model.fit_scale(shown, batch=7)
    mean = raw.mean(0)
    scale = math.sqrt(((raw - mean) ** 2).sum() / (40 * 12))
    np.testing.assert_allclose(model.mean.numpy(), mean, rtol=0, atol=1e-12)
    assert float(model.scale) == pytest.approx(scale, rel=1e-12)
    z = model.encode(shown).numpy()
    np.testing.assert_allclose(z, (raw - mean) / scale, rtol=0, atol=1e-9)
    np.testing.assert_allclose(z.mean(0), np.zeros((3, 2, 2)), rtol=0, atol=1e-9)
    assert (z**2).sum((1, 2, 3)).mean() == pytest.approx(12, rel=1e-9)
    # one scale for all: the coordinates' own differ as the encoder made them
    ratio = z.std(0) / raw.std(0)
    assert np.ptp(ratio) < 1e-9 * ratio.mean() and np.ptp(z.std(0)) > 0.1


@torch.no_grad()
def test_decoding_undoes_centre_and_scale() -> None:
    model, shown = autoencoder(), images(40)
    mean, _ = model.posterior(shown)
    # with nothing fitted, latents leave as they are
    assert torch.equal(model.encode(shown), mean)
    model.fit_scale(shown)
    torch.testing.assert_close(model.decode(model.encode(shown)), model.decode_raw(mean))
    others = images(50)[40:]
    there_and_back = model.decode(model.encode(others))
    torch.testing.assert_close(there_and_back, model.decode_raw(model.posterior(others)[0]))
    # centre and scale are kept with the weights
    again = autoencoder()
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.encode(others), model.encode(others))


def test_a_decoder_is_the_half_that_decodes_and_trains_alone() -> None:
    model, shown = autoencoder(), images(12)
    model.fit_scale(shown)
    before = {name: part.clone() for name, part in model.state_dict().items()}
    z = normal(12, *model.shape, seed=1, dtype=F64)
    decoder = Decoder(model)
    assert torch.equal(decoder(z), model.decode(z))
    draw = tools.EncodedStream(z, shown, 4, 3)
    list(Trainer(decoder, draw, Recipe(2, 1e-2), tools.decoding).run())
    state = decoder.state_dict()
    assert state.keys() == {f"autoencoder.{name}" for name in before}
    moved = {
        name for name, part in before.items() if not torch.equal(state[f"autoencoder.{name}"], part)
    }
    learning = ("kl.decoder.", "kl.post_quant_conv.")
    assert moved == {name for name in before if name.startswith(learning)}


@torch.no_grad()
def test_pixels_are_folded_into_channels_and_back() -> None:
    model, shown = autoencoder(channels=2), images(3, channels=2)
    seen: dict[str, Tensor] = {}
    model.kl.encoder.register_forward_pre_hook(lambda m, args: seen.update(x=args[0]))
    model.kl.decoder.register_forward_hook(lambda m, args, out: seen.update(y=out))
    restored = model.decode_raw(model.posterior(shown)[0])
    for c in range(2):
        for i in range(2):
            for j in range(2):
                channel = 4 * c + 2 * i + j
                assert torch.equal(seen["x"][:, channel], shown[:, c, i::2, j::2])
                assert torch.equal(restored[:, c, i::2, j::2], seen["y"][:, channel])


@torch.no_grad()
def test_the_posterior_is_that_of_diffusers() -> None:
    model, shown = autoencoder(fold=1), images(3)
    mean, logvar = model.posterior(shown)
    moments = model.kl.quant_conv(model.kl.encoder(shown))
    torch.testing.assert_close(torch.cat([mean, logvar], 1), moments)
    assert mean.shape == (3, *model.shape) == (3, 3, 4, 4)
    decoded = model.kl.decoder(model.kl.post_quant_conv(mean))
    torch.testing.assert_close(model.decode_raw(mean), decoded)


def test_the_autoencoder_of_fashion_gives_latents_of_4_by_7_by_7() -> None:
    for name in ("KL-fashion", "KL-fashion-tiny"):
        model = Autoencoder.from_name(name)
        with torch.no_grad():
            z = model.encode(torch.zeros(1, 1, 28, 28))
        assert z.shape[1:] == model.shape == (4, 7, 7)
    assert sum(p.numel() for p in Autoencoder.from_name("KL-fashion").parameters()) < 1.3e6


def test_what_cannot_be_scaled_or_halved_is_refused() -> None:
    for few in (images(1), images(1).expand(9, -1, -1, -1)):
        with pytest.raises(ValueError, match="latents of these images do not vary"):
            autoencoder().fit_scale(few)
    broken = autoencoder()
    with torch.no_grad():
        broken.kl.quant_conv.bias.fill_(math.nan)
    with pytest.raises(ValueError, match="do not vary; they have no scale"):
        broken.fit_scale(images(20))
    with pytest.raises(ValueError, match="images of 10 cannot be halved as often"):
        autoencoder(size=10)


def test_the_autoencoders_loss_is_its_formula() -> None:
    model, shown = autoencoder(), images(5)
    noise = normal(5, *model.shape, seed=1, dtype=F64)
    z = model.posterior(shown)[0]
    deviation = ((z - z.mean(0)).square().sum(0) / 4).sqrt().detach()
    restored = model.decode_raw(z + 0.1 * deviation * noise)
    expected = (restored - shown).pow(2).sum() / shown.numel()
    expected = expected + 0.001 * z.pow(2).sum() / z.numel()
    found = tools.restoration(model, tools.Noised(shown, noise))
    torch.testing.assert_close(found, expected)
    # no gradient goes through the deviations
    names, parameters = zip(*model.named_parameters(), strict=True)
    for mine, other, name in zip(
        torch.autograd.grad(found, parameters),
        torch.autograd.grad(expected, parameters),
        names,
        strict=True,
    ):
        torch.testing.assert_close(mine, other, msg=name)


# ---------------------------------------------------------------- the classifier


def test_logits_are_read_out_of_the_features() -> None:
    model = Classifier().double().eval()
    shown = images(6, 28)
    features = model.features(shown)
    assert features.shape == (6, Classifier.FEATURES) and float(features.detach().min()) == 0
    weight, bias = model.readout.weight, model.readout.bias
    torch.testing.assert_close(model(shown), features @ weight.T + bias)
    # three convolutions, the first two of stride 2, then the hidden layer: by torch's functions
    h = shown
    for conv, norm, stride, pad in [(0, 1, 2, 2), (3, 4, 2, 1), (6, 7, 1, 1)]:
        parts = model.convolutions
        h = nn.functional.conv2d(h, parts[conv].weight, parts[conv].bias, stride, pad)
        mean, variance = parts[norm].running_mean, parts[norm].running_var
        h = (h - mean.view(-1, 1, 1)) / (variance.view(-1, 1, 1) + 1e-5).sqrt()
        h = h.clamp(min=0)
    hidden = h.flatten(1) @ model.hidden.weight.T + model.hidden.bias
    torch.testing.assert_close(features, hidden.clamp(min=0))


def test_dropout_acts_in_training_only() -> None:
    model, shown = Classifier(8, classes=3), images(6).float()
    model.eval()
    assert torch.equal(model(shown), model(shown))
    model.drop.train()
    assert not torch.equal(model(shown), model(shown))
    with pytest.raises(ValueError, match="30 is no multiple of 4"):
        Classifier(30)


def test_cross_entropy_is_the_mean_negative_log_likelihood() -> None:
    model, shown, labels = Classifier(8, classes=3).double().eval(), images(6), torch.arange(6) % 3
    logits = model(shown).detach().numpy()
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    expected = -np.log(p[np.arange(6), labels]).mean()
    found = tools.cross_entropy(model, tools.Labelled(shown, labels)).detach()
    assert float(found) == pytest.approx(expected, rel=1e-10)


# ---------------------------------------------------------------- their data


def test_half_of_the_images_are_mirrored_as_the_step_says() -> None:
    shown, labels = images(40), torch.arange(40)
    plain = tools.LabelledStream(shown, labels, 20, 3, flip=False)
    turning = tools.LabelledStream(shown, labels, 20, 3, flip=True)
    count = 0
    for step in range(1, 101):
        batch, turned = plain(step), turning(step)
        assert torch.equal(batch.inputs, shown[batch.labels])
        assert torch.equal(batch.labels, turned.labels)
        mirrored = batch.inputs[..., torch.arange(7, -1, -1)]
        which = (turned.inputs == mirrored).flatten(1).all(1)
        assert torch.equal(turned.inputs[~which], batch.inputs[~which])
        count += int(which.sum())
    assert abs(count - 1000) < 4.5 * math.sqrt(2000 / 4)
    assert torch.equal(turning(7).inputs, turning(7).inputs)


def test_noise_for_latents_is_new_in_every_step_and_the_same_again() -> None:
    shown = images(40)
    draw = tools.NoisedStream(shown, (3, 4, 4), 20, 3)
    steps = [draw(step) for step in (1, 2, 1)]
    assert torch.equal(steps[0].noise, steps[2].noise)
    assert torch.equal(steps[0].images, steps[2].images)
    assert not torch.equal(steps[0].noise, steps[1].noise)
    both = torch.cat([steps[0].images, steps[1].images]).flatten(1)
    assert torch.equal(both.unique(dim=0), shown.flatten(1).unique(dim=0))
    expected = torch.randn(20, 3, 4, 4, generator=generator_for(3, 2, 1))
    assert torch.equal(steps[0].noise, expected)


def test_the_decoders_latents_are_those_of_their_images_with_noise() -> None:
    shown = images(40)
    z = shown.mean((2, 3), keepdim=True) + torch.zeros(1, 3, 4, 4, dtype=F64)
    draw = tools.EncodedStream(z, shown, 20, 3)
    batch = draw(1)
    order = tools.Order(40, 20, 3)(1)
    assert torch.equal(batch.images, shown[order])
    noise = torch.randn(20, 3, 4, 4, generator=generator_for(3, 2, 1))
    torch.testing.assert_close(batch.latents, z[order] + 0.05 * noise)
    assert torch.equal(draw(1).latents, batch.latents)
    assert not torch.equal(draw(3).latents, batch.latents)


def test_the_decoders_loss_is_its_formula() -> None:
    model, shown = autoencoder(), images(5)
    z = normal(5, *model.shape, seed=1, dtype=F64)
    expected = ((model.decode(z) - shown).detach().numpy() ** 2).mean()
    found = tools.decoding(Decoder(model), tools.Encoded(z, shown)).detach()
    assert float(found) == pytest.approx(expected, rel=1e-12)
