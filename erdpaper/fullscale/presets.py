"""What `erdpaper train --preset` can train at full scale: one row a run.

The rows follow the paper's Tables 1, 2, 3 and 5 and its App. G.1. All use AdamW without weight
decay, an average with decay 0.9999, no warm-up and no clipping, unless they say otherwise. What is
not on a row is given when it is run: fp16 [P G.1] is `--precision`.

Where the paper contradicts itself or cannot be read, the row follows App. G and Table 5, and
says so:

- VQ-VAE [P 4.1] or the VAE of Stable Diffusion [P G.1]: the latter, whose latents have the factor;
- Adam [P 4] or AdamW [P G.1]: the same without weight decay;
- "cosine" cited as the noise schedule [P Tab 1] and called a learning rate's [P 4.3]: both are here;
- betas: (0.9, 0.95) in the ablation [P 4.2, 4.3], (0.9, 0.999) for DiT in Table 5;
- label dropout is 0.1 [P G.1], 0 in the public code's DiT commands.

A baseline that the paper takes over from its source is trained as in that source. To compare like
with like there is a row `-uniform` beside each `-erd`, which differs from it in the weight alone.
"""

# ruff: noqa: E501  the rows of a table are as long as they are
from typing import Any, NamedTuple

from erdpaper.fullscale.tables.published import IMAGENET
from erdpaper.images.presets import Preset
from erdpaper.training import Recipe


class Data(NamedTuple):
    """What a preset's folder of encoded data must hold; `examples` make the whole training set."""

    title: str
    shape: tuple[int, int, int]
    classes: int
    examples: int


DATA = {
    "imagenet-latents": Data("ImageNet 256 in VAE latents",   (4, 32, 32), 1_000, IMAGENET),
    "celeba-64":        Data("CelebA 64, its training part",  (3, 64, 64),     0,   162_770),
    "cifar-10":         Data("CIFAR-10",                      (3, 32, 32),    10,    50_000),
    "rehearsal":        Data("images of 28x28 in latents",    (4,  7,  7),    10,    60_000),
}  # fmt: skip

DIT, UVIT, ABLATION = (0.9, 0.999), (0.99, 0.99), (0.9, 0.95)


def _adamw(steps: int, betas: tuple[float, float], lr: float = 1e-4, **other: Any) -> Recipe:
    return Recipe(steps, lr, betas=betas, **({"ema": 0.9999} | other))


PRESETS = {
    #                                       data               model           target weight     schedule  batch dropout
    # Table 5, in its order, which are the rows "Ours" of Table 3. Its signs for a last convolution are legible for U-ViT only.
    "imagenet-dit-b2-erd":           Preset("imagenet-latents", "DiT-B/2",        "eps", "erd",     "cosine", 256, 0.1, _adamw(400_000, DIT)),
    "imagenet-dit-l2-erd":           Preset("imagenet-latents", "DiT-L/2",        "eps", "erd",     "cosine", 256, 0.1, _adamw(400_000, DIT)),
    "imagenet-dit-xl2-erd":          Preset("imagenet-latents", "DiT-XL/2",       "eps", "erd",     "cosine", 256, 0.1, _adamw(400_000, DIT)),
    "imagenet-uvit-m2-erd":          Preset("imagenet-latents", "U-ViT-M/2",      "eps", "erd",     "cosine", 256, 0.1, _adamw(400_000, UVIT)),
    "imagenet-uvit-l2-erd":          Preset("imagenet-latents", "U-ViT-L/2",      "eps", "erd",     "cosine", 256, 0.1, _adamw(400_000, UVIT)),
    "imagenet-uvit-h2-erd":          Preset("imagenet-latents", "U-ViT-H/2",      "eps", "erd",     "cosine", 256, 0.1, _adamw(400_000, UVIT)),
    # Table 5 says 800 epochs, which are 4,003,647 steps; Tables 8 and 9 say 4M, which is taken.
    "imagenet-uvit-h2-erd-long":     Preset("imagenet-latents", "U-ViT-H/2",      "eps", "erd",     "cosine", 256, 0.1, _adamw(4_000_000, UVIT)),
    # Like with like: the same runs with a constant weight. For U-ViT these are taken as Table 3's baselines, whose recipe it does not give.
    "imagenet-dit-b2-uniform":       Preset("imagenet-latents", "DiT-B/2",        "eps", "uniform", "cosine", 256, 0.1, _adamw(400_000, DIT)),
    "imagenet-dit-l2-uniform":       Preset("imagenet-latents", "DiT-L/2",        "eps", "uniform", "cosine", 256, 0.1, _adamw(400_000, DIT)),
    "imagenet-dit-xl2-uniform":      Preset("imagenet-latents", "DiT-XL/2",       "eps", "uniform", "cosine", 256, 0.1, _adamw(400_000, DIT)),
    "imagenet-uvit-m2-uniform":      Preset("imagenet-latents", "U-ViT-M/2",      "eps", "uniform", "cosine", 256, 0.1, _adamw(400_000, UVIT)),
    "imagenet-uvit-l2-uniform":      Preset("imagenet-latents", "U-ViT-L/2",      "eps", "uniform", "cosine", 256, 0.1, _adamw(400_000, UVIT)),
    "imagenet-uvit-h2-uniform":      Preset("imagenet-latents", "U-ViT-H/2",      "eps", "uniform", "cosine", 256, 0.1, _adamw(400_000, UVIT)),
    # Table 3, Min-SNR on U-ViT-H/2: gamma 5 and the recipe of Table 5, neither of which it gives.
    "imagenet-uvit-h2-min-snr":      Preset("imagenet-latents", "U-ViT-H/2",      "eps", "min-snr", "cosine", 256, 0.1, _adamw(400_000, UVIT)),
    # Table 3, DiT as in its own paper: linear betas. The variance that it also learns there is not trained here.
    "imagenet-dit-b2":               Preset("imagenet-latents", "DiT-B/2",        "eps", "uniform", "ddpm",   256, 0.1, _adamw(400_000, DIT)),
    "imagenet-dit-l2":               Preset("imagenet-latents", "DiT-L/2",        "eps", "uniform", "ddpm",   256, 0.1, _adamw(400_000, DIT)),
    "imagenet-dit-xl2":              Preset("imagenet-latents", "DiT-XL/2",       "eps", "uniform", "ddpm",   256, 0.1, _adamw(400_000, DIT)),
    # Table 3, SiT as in its own paper: the network of DiT, the velocity of the straight path. Table 3 calls the last "SiT-XL".
    "imagenet-sit-b2":               Preset("imagenet-latents", "DiT-B/2",        "u",   "uniform", "linear", 256, 0.1, _adamw(400_000, DIT)),
    "imagenet-sit-l2":               Preset("imagenet-latents", "DiT-L/2",        "u",   "uniform", "linear", 256, 0.1, _adamw(400_000, DIT)),
    "imagenet-sit-xl2":              Preset("imagenet-latents", "DiT-XL/2",       "u",   "uniform", "linear", 256, 0.1, _adamw(400_000, DIT)),
    # Table 1: DiT-S/2, with the weight; then beta_2 = .95, then "cosine", then the weight. Its baseline is DiT's own recipe.
    "imagenet-dit-s2":               Preset("imagenet-latents", "DiT-S/2",        "eps", "uniform", "ddpm",   256, 0.1, _adamw(400_000, DIT)),
    "imagenet-dit-s2-erd":           Preset("imagenet-latents", "DiT-S/2",        "eps", "erd",     "ddpm",   256, 0.1, _adamw(400_000, DIT)),
    "imagenet-dit-s2-beta":          Preset("imagenet-latents", "DiT-S/2",        "eps", "uniform", "ddpm",   256, 0.1, _adamw(400_000, ABLATION)),
    # "cosine" as a noise schedule, as Table 1 cites it; these two are also Figure 6's for eps
    "imagenet-dit-s2-cosine":        Preset("imagenet-latents", "DiT-S/2",        "eps", "uniform", "cosine", 256, 0.1, _adamw(400_000, ABLATION)),
    "imagenet-dit-s2-cosine-erd":    Preset("imagenet-latents", "DiT-S/2",        "eps", "erd",     "cosine", 256, 0.1, _adamw(400_000, ABLATION)),
    # "cosine" as the decay of the learning rate, as Sec. 4.3 calls it
    "imagenet-dit-s2-decay":         Preset("imagenet-latents", "DiT-S/2",        "eps", "uniform", "ddpm",   256, 0.1, _adamw(400_000, ABLATION, decay="cosine")),
    "imagenet-dit-s2-decay-erd":     Preset("imagenet-latents", "DiT-S/2",        "eps", "erd",     "ddpm",   256, 0.1, _adamw(400_000, ABLATION, decay="cosine")),
    # Figure 6: the other weights and targets. P2 has gamma 1, as in the public code, which has it for eps only.
    "imagenet-dit-s2-min-snr":       Preset("imagenet-latents", "DiT-S/2",        "eps", "min-snr", "cosine", 256, 0.1, _adamw(400_000, ABLATION)),
    "imagenet-dit-s2-p2":            Preset("imagenet-latents", "DiT-S/2",        "eps", "p2",      "cosine", 256, 0.1, _adamw(400_000, ABLATION)),
    "imagenet-dit-s2-x0":            Preset("imagenet-latents", "DiT-S/2",        "x0",  "uniform", "cosine", 256, 0.1, _adamw(400_000, ABLATION)),
    "imagenet-dit-s2-x0-erd":        Preset("imagenet-latents", "DiT-S/2",        "x0",  "erd",     "cosine", 256, 0.1, _adamw(400_000, ABLATION)),
    "imagenet-dit-s2-x0-min-snr":    Preset("imagenet-latents", "DiT-S/2",        "x0",  "min-snr", "cosine", 256, 0.1, _adamw(400_000, ABLATION)),
    "imagenet-dit-s2-x0-p2":         Preset("imagenet-latents", "DiT-S/2",        "x0",  "p2",      "cosine", 256, 0.1, _adamw(400_000, ABLATION)),
    "imagenet-dit-s2-v":             Preset("imagenet-latents", "DiT-S/2",        "v",   "uniform", "cosine", 256, 0.1, _adamw(400_000, ABLATION)),
    "imagenet-dit-s2-v-erd":         Preset("imagenet-latents", "DiT-S/2",        "v",   "erd",     "cosine", 256, 0.1, _adamw(400_000, ABLATION)),
    "imagenet-dit-s2-v-min-snr":     Preset("imagenet-latents", "DiT-S/2",        "v",   "min-snr", "cosine", 256, 0.1, _adamw(400_000, ABLATION)),
    "imagenet-dit-s2-v-p2":          Preset("imagenet-latents", "DiT-S/2",        "v",   "p2",      "cosine", 256, 0.1, _adamw(400_000, ABLATION)),
    # Table 2, in pixels and without classes. The exponents of both learning rates are illegible: 1e-4, as in the public code's
    # commands for the UNet. The patch of DiT-S is not given: 4, as in those commands, which use betas (.99, .99) and 1e-4 or 1e-3.
    "celeba-unet-erd":               Preset("celeba-64",        "UNet-celeba",    "eps", "erd",     "cosine", 128, 0.0, _adamw(500_000, DIT)),
    "celeba-unet-uniform":           Preset("celeba-64",        "UNet-celeba",    "eps", "uniform", "cosine", 128, 0.0, _adamw(500_000, DIT)),
    "celeba-dit-s":                  Preset("celeba-64",        "DiT-S-celeba",   "eps", "uniform", "cosine", 128, 0.0, _adamw(500_000, ABLATION)),
    "celeba-dit-s-erd":              Preset("celeba-64",        "DiT-S-celeba",   "eps", "erd",     "cosine", 128, 0.0, _adamw(500_000, ABLATION)),
    # Table 2, the others, as in their own code.
    "celeba-uvit-s":                 Preset("celeba-64",        "U-ViT-S-celeba", "eps", "uniform", "vp",     128, 0.0, _adamw(500_000, UVIT, 2e-4, weight_decay=0.03, warmup=5_000)),
    "celeba-ddim":                   Preset("celeba-64",        "UNet-celeba-ddim", "eps", "uniform", "ddpm", 128, 0.0, _adamw(500_000, DIT, 2e-4, clip=1.0)),
    # Table 2, Soft Truncation: its 62M and 1.90 are those of DDPM++ (VP, FID), trained with the weight sigma^2. What the network
    # cannot follow is beside its sizes. The second row is in no table: the same with the weight g^2, for which its authors report 2.90.
    "celeba-soft-truncation":        Preset("celeba-64",        "UNet-celeba-ddpmpp", "eps", "soft-truncation",     "vp", 128, 0.0, _adamw(1_300_000, DIT, 2e-4, warmup=5_000, clip=1.0)),
    "celeba-soft-truncation-nll":    Preset("celeba-64",        "UNet-celeba-ddpmpp", "eps", "soft-truncation-nll", "vp", 128, 0.0, _adamw(1_300_000, DIT, 2e-4, warmup=5_000, clip=1.0)),
    # CIFAR-10 is in no table: the recipe of DDPM with classes, and the same with the weight.
    "cifar10-unet-uniform":          Preset("cifar-10",         "UNet-cifar10",   "eps", "uniform", "cosine", 128, 0.1, _adamw(800_000, DIT, 2e-4, warmup=5_000, clip=1.0)),
    "cifar10-unet-erd":              Preset("cifar-10",         "UNet-cifar10",   "eps", "erd",     "cosine", 128, 0.1, _adamw(800_000, DIT, 2e-4, warmup=5_000, clip=1.0)),
    # The whole way at a size for one core: 28x28 images of ten classes, encoded to 4x7x7.
    "rehearsal-erd":                 Preset("rehearsal",        "DiT-fashion-latent", "eps", "erd",     "cosine", 64, 0.1, _adamw(2_000, DIT, 1e-3, ema=0.99)),
    "rehearsal-uniform":             Preset("rehearsal",        "DiT-fashion-latent", "eps", "uniform", "cosine", 64, 0.1, _adamw(2_000, DIT, 1e-3, ema=0.99)),
}  # fmt: skip
