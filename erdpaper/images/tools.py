"""The two networks that the image experiments stand on: an autoencoder and classifiers.

The autoencoder is trained to undo noise on its own latents,

    mean (decode(z + 0.1 s n) - image)^2 + 0.001 mean z^2,    n ~ N(0, I), s the latents' std,

so that a small error of a diffusion model in a latent stays small in the image; the second term
only fixes the scale. Then the encoder is left as it is, its latents are scaled and rounded, and
the decoder alone goes on with what it will be given, mean (decode(z + 0.05 n) - image)^2. A
classifier lowers the cross entropy of its labels.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from erdpaper.training.stream import Order, generator_for

_NOISE, _DECODER_NOISE = 0.1, 0.05
_SCALE = 1e-3
# the streams of random numbers beside those of `training.stream`
_AUGMENT = 2


class Noised(NamedTuple):
    """Images (N, C, H, W) and standard normal noise for their latents (N, c, h, w)."""

    images: Tensor
    noise: Tensor


class Labelled(NamedTuple):
    """Inputs (N, ...) and their classes (N,)."""

    inputs: Tensor
    labels: Tensor


@dataclass(frozen=True)
class NoisedStream:
    """step -> images and the noise for their latents, of shape `latent`."""

    images: Tensor
    latent: tuple[int, ...]
    batch: int
    seed: int
    _order: Order = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_order", Order(len(self.images), self.batch, self.seed))

    def __call__(self, step: int) -> Noised:
        """The batch of step 1, 2, ..."""
        generator = generator_for(self.seed, _AUGMENT, step)
        noise = torch.randn(self.batch, *self.latent, generator=generator)
        return Noised(self.images[self._order(step)], noise)


class Encoded(NamedTuple):
    """Latents (N, c, h, w) with noise added, and the images (N, C, H, W) they encode."""

    latents: Tensor
    images: Tensor


@dataclass(frozen=True)
class EncodedStream:
    """step -> noisy latents and their images."""

    latents: Tensor
    images: Tensor
    batch: int
    seed: int
    _order: Order = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_order", Order(len(self.images), self.batch, self.seed))

    def __call__(self, step: int) -> Encoded:
        """The batch of step 1, 2, ..."""
        indices, generator = self._order(step), generator_for(self.seed, _AUGMENT, step)
        z = self.latents[indices]
        noise = torch.randn(z.shape, generator=generator)
        return Encoded(z + _DECODER_NOISE * noise, self.images[indices])


@dataclass(frozen=True)
class LabelledStream:
    """step -> inputs and labels; half of the images are mirrored where `flip` is set."""

    inputs: Tensor
    labels: Tensor
    batch: int
    seed: int
    flip: bool
    _order: Order = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_order", Order(len(self.inputs), self.batch, self.seed))

    def __call__(self, step: int) -> Labelled:
        """The batch of step 1, 2, ..."""
        indices = self._order(step)
        inputs = self.inputs[indices]
        if self.flip:
            turned = (
                torch.rand(len(inputs), generator=generator_for(self.seed, _AUGMENT, step)) < 0.5
            )
            inputs = torch.where(turned.view(-1, 1, 1, 1), inputs.flip(-1), inputs)
        return Labelled(inputs, self.labels[indices])


def restoration(model: nn.Module, batch: Noised) -> Tensor:
    """The autoencoder's loss, see the module docstring."""
    # by a call, which is all that a wrapper for many processes or mixed precision passes on
    restored, z = model(batch.images, batch.noise, _NOISE)  # (N, C, H, W), (N, c, h, w)
    loss: Tensor = (restored - batch.images).square().mean() + _SCALE * z.square().mean()
    return loss


def decoding(model: nn.Module, batch: Encoded) -> Tensor:
    """The loss of the decoder alone, see the module docstring."""
    loss: Tensor = (model(batch.latents) - batch.images).square().mean()
    return loss


def cross_entropy(model: nn.Module, batch: Labelled) -> Tensor:
    """The mean negative log-likelihood of the labels, in nats."""
    loss: Tensor = nn.functional.cross_entropy(model(batch.inputs), batch.labels)
    return loss
