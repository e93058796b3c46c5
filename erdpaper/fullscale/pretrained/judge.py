"""CLIP as a zero-shot classifier: a judge of images that is no part of the model that drew them.

The logit of a class is the scaled cosine between the embeddings of an image and of a text that
names the class. It compares what is said of images; its shares are no calibrated probabilities.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate, normalize
from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

from erdpaper.fullscale.pretrained import loading
from erdpaper.images.measure import Features

# images that the network sees at once
_BATCH = 100
PROMPT = "a photo of a {}"


class Judge:
    """Features and logits of images by a CLIP model and the names of C classes."""

    def __init__(self, model: Any, tokenizer: Any, processor: Any, classes: Sequence[str]) -> None:
        if isinstance(classes, str) or not classes:
            raise ValueError("classes must be a sequence of one or more names")
        self._model = model
        self._mean, self._std = (
            torch.tensor(values, device=model.device).reshape(3, 1, 1)
            for values in (processor.image_mean, processor.image_std)
        )
        self._side = processor.size["shortest_edge"] or processor.size["height"]
        self._cut = processor.crop_size["height"]
        self._words = self._named(tokenizer, classes)  # (C, width)

    @torch.no_grad()
    def _named(self, tokenizer: Any, classes: Sequence[str]) -> Tensor:
        prompts = [PROMPT.format(name) for name in classes]
        tokens = tokenizer(prompts, padding=True, truncation=True, return_tensors="pt")
        said = self._model.text_model(**tokens.to(self._model.device)).pooler_output
        return normalize(self._model.text_projection(said), dim=1)

    def pixels(self, images: Tensor) -> Tensor:
        """What the network is shown of images (N, 3, H, W) in [-1, 1], (N, 3, side, side).

        The shorter side is resized (bicubic, antialiased) and the centre cut out, as the model's
        processor does to bytes.
        """
        images = (images.to(self._mean).clamp(-1, 1) + 1) / 2
        height, width = images.shape[2:]
        size = tuple(self._side * length // min(height, width) for length in (height, width))
        if size != (height, width):
            images = interpolate(images, size=size, mode="bicubic", antialias=True).clamp(0, 1)
        top, left = ((length - self._cut) // 2 for length in size)
        images = images[:, :, top : top + self._cut, left : left + self._cut]
        return (images - self._mean) / self._std

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Features:
        """Normalised embeddings (N, width) and logits (N, C) of images (N, 3, H, W) in [-1, 1]."""
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"images must be (N, 3, H, W), got {tuple(images.shape)}")
        features = torch.cat([self._seen(part) for part in images.split(_BATCH)])
        logits = self._model.logit_scale.exp() * features @ self._words.T
        return Features(features.cpu(), logits.cpu())

    def _seen(self, images: Tensor) -> Tensor:
        seen = self._model.vision_model(pixel_values=self.pixels(images)).pooler_output
        return normalize(self._model.visual_projection(seen), dim=1)


def load(name: str | Path, classes: Sequence[str]) -> Judge:
    """The judge of a folder or hub name that holds a CLIP model, its tokenizer and processor."""
    model = loading.pretrained(CLIPModel, name, "CLIP model", use_safetensors=True)
    tokenizer = loading.pretrained(CLIPTokenizer, name, "CLIP tokenizer")
    processor = loading.pretrained(CLIPImageProcessor, name, "CLIP image processor")
    model = model.to(loading.device()).eval().requires_grad_(False)
    return Judge(model, tokenizer, processor, classes)
