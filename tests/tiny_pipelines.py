"""Pipelines and classifiers of the real kinds, with random weights, small enough for a test.

They say nothing sensible, but all they say depends on every input: text, class, time and state.
"""

import json
import string
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDPMPipeline,
    DDPMScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
    UNet2DModel,
)
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionConfig,
)

TOKENS = 24
WIDTH = 16
LATENT_SIDE, IMAGE_SIDE = 8, 16
# not the value of any real model, so that a forgotten factor shows
SCALING = 0.4


def tokenizer() -> CLIPTokenizer:
    """One token for each letter."""
    letters = string.ascii_lowercase + string.digits
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{c}</w>" for c in letters)]
    vocabulary = {word: number for number, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=TOKENS)


def _text_config() -> CLIPTextConfig:
    words = tokenizer()
    return CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=TOKENS,
        projection_dim=WIDTH,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
        # weights of unit size: with the usual small ones all texts are alike
        initializer_factor=10.0,
    )


def stable_diffusion(
    prediction_type: str = "epsilon",
    side: int = LATENT_SIDE,
    scaling: float = SCALING,
    **options: Any,
) -> StableDiffusionPipeline:
    """The parts of Stable Diffusion, in evaluation mode, for latents of this side and scale."""
    torch.manual_seed(0)
    blocks = {"block_out_channels": (8, 16), "norm_num_groups": 4, "layers_per_block": 1}
    levels = {
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    }
    unet = UNet2DConditionModel(
        sample_size=side,
        cross_attention_dim=WIDTH,
        attention_head_dim=2,
        **blocks,
        **levels | options,
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        scaling_factor=scaling,
        sample_size=IMAGE_SIDE,
        **blocks,
    )
    scheduler = PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        skip_prk_steps=True,
        steps_offset=1,
        prediction_type=prediction_type,
    )
    pipe = StableDiffusionPipeline(
        vae=vae.eval(),
        text_encoder=CLIPTextModel(_text_config()).eval(),
        tokenizer=tokenizer(),
        unet=unet.eval(),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def class_conditional(embeddings: int | None = 11, **options: Any) -> UNet2DModel:
    """A network of 3 x 32 x 32 pixels with so many class embeddings."""
    torch.manual_seed(1)
    sizes = {"sample_size": 32, "in_channels": 3, "out_channels": 3}
    sizes |= {"block_out_channels": (8, 16), "norm_num_groups": 4} | options
    return UNet2DModel(
        num_class_embeds=embeddings,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        **sizes,
    ).eval()


def save_ddpm(folder: Path, unet: UNet2DModel, **config: Any) -> Path:
    """A pipeline's folder with this network and a DDPM scheduler."""
    DDPMPipeline(unet=unet, scheduler=DDPMScheduler(**config)).save_pretrained(folder)
    return folder


def save_clip(folder: Path, side: int = 16) -> Path:
    """A CLIP model's folder, with tokenizer and processor, for images of this side."""
    torch.manual_seed(2)
    vision = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=side,
        patch_size=4,
        projection_dim=WIDTH,
    )
    config = CLIPConfig(
        text_config=_text_config().to_dict(),
        vision_config=vision.to_dict(),
        projection_dim=WIDTH,
    )
    CLIPModel(config).eval().save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    size = {"height": side, "width": side}
    CLIPImageProcessor(size={"shortest_edge": side}, crop_size=size).save_pretrained(folder)
    return folder


def save_stable_diffusion(
    folder: Path,
    prediction_type: str = "epsilon",
    side: int = LATENT_SIDE,
    scaling: float = SCALING,
    **options: Any,
) -> Path:
    """A pipeline's folder, with the vocabulary in the two files that the real ones have."""
    stable_diffusion(prediction_type, side, scaling, **options).save_pretrained(folder)
    words = folder / "tokenizer"
    vocabulary = json.loads((words / "tokenizer.json").read_text())["model"]["vocab"]
    (words / "tokenizer.json").unlink()
    (words / "vocab.json").write_text(json.dumps(vocabulary))
    (words / "merges.txt").write_text("#version: 0.2\n")
    return folder
