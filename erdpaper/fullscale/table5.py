"""The presets beside the columns of the paper's Table 5."""

from typing import Any

from erdpaper.fullscale.presets import PRESETS
from erdpaper.fullscale.sampling.generate import Request
from erdpaper.fullscale.tables.published import IMAGENET, Row, table
from erdpaper.images.presets import Preset
from erdpaper.models.dit import CONFIGS as DIT
from erdpaper.models.uvit import CONFIGS as UVIT

COLUMNS = {
    "DiT-B/2": "imagenet-dit-b2-erd",
    "DiT-L/2": "imagenet-dit-l2-erd",
    "DiT-XL/2": "imagenet-dit-xl2-erd",
    "U-ViT-M/2": "imagenet-uvit-m2-erd",
    "U-ViT-L/2": "imagenet-uvit-l2-erd",
    "U-ViT-H/2": "imagenet-uvit-h2-erd",
    "U-ViT-H/2, 800 epochs": "imagenet-uvit-h2-erd-long",
}
_SIGNS = {True: "yes", False: "no"}
# 800 epochs are 4,003,647 steps, and another table says 4M
_LENGTH = 0.01


def disagreements() -> dict[str, list[str]]:
    """Column -> the rows of Table 5, where legible, with which its preset disagrees.

    The number of parameters, which a preset does not set, and the guidance, which is given when it
    is sampled, are left out; lengths agree within a hundredth.
    """
    found = {}
    for (column, name), row in zip(COLUMNS.items(), table(5), strict=True):
        said = _said(PRESETS[name])
        differ = [key for key, text in said.items() if row[key] and row[key] != text]
        found[column] = differ + ([] if _as_long(PRESETS[name], row) else ["length"])
    return found


def _said(preset: Preset) -> dict[str, str]:
    """A preset in the words of the table."""
    config: Any = (DIT | UVIT)[preset.model]
    recipe = preset.recipe
    said = {
        "model": preset.model,
        "input_dim": f"{config.size}x{config.size}x{config.channels}",
        "layers": str(config.depth),
        "width": f"{config.width:,}" if config.width >= 1_000 else str(config.width),
        "heads": str(config.heads),
        "batch": str(preset.batch),
        "optimizer": "AdamW" if recipe.weight_decay == 0 else "AdamW with decay",
        "learning_rate": f"{recipe.lr:.0e}".replace("e-0", "e-"),
        "betas": "({:g},{:g})".format(*recipe.betas),
        "schedule": preset.schedule,
        "objective": preset.target,
        "sampling_steps": str(Request.steps),
    }
    if preset.model in UVIT:
        said["convolution"] = _SIGNS[config.conv]
    return said


def _as_long(preset: Preset, row: Row) -> bool:
    length = row.value("length")
    if not row["length"].endswith("K"):
        length *= IMAGENET / preset.batch
    return abs(preset.recipe.steps / length - 1) <= _LENGTH
