"""Pictures of few colours stay as they are to the pixel, others nearly."""

import io

import numpy as np
import pytest
from PIL import Image

from erdpaper import palette


def png(pixels: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", **options)
    return buffer.getvalue()


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def test_a_picture_of_up_to_256_colours_keeps_every_pixel() -> None:
    colours = np.stack([np.arange(256), np.arange(256)[::-1], np.full(256, 7)], -1)
    pixels = colours.astype(np.uint8)[np.random.default_rng(0).integers(0, 256, (60, 80))]
    small = palette.reduced(png(pixels, dpi=(144, 144)))
    np.testing.assert_array_equal(np.asarray(opened(small).convert("RGB")), pixels)
    assert opened(small).mode == "P"
    assert opened(small).info["dpi"] == pytest.approx((144, 144), abs=0.1)


def test_a_drawing_of_many_shades_changes_little_and_shrinks() -> None:
    x, y = np.meshgrid(np.linspace(0, 1, 300), np.linspace(0, 1, 200))
    shade = 1 / (1 + np.exp(-40 * (y - x)))
    pixels = np.stack([255 * shade, 76 + 179 * shade, 140 + 115 * shade], -1).astype(np.uint8)
    before = png(pixels)
    after = palette.reduced(before)
    gaps = np.abs(np.asarray(opened(after).convert("RGB")).astype(int) - pixels)
    assert gaps.max() <= 8 and len(after) < len(before)


def test_plain_areas_stay_plain() -> None:
    """A shade that is none of the 256 is replaced by one of them, not by a pattern of two."""
    pixels = np.random.default_rng(2).integers(0, 256, (200, 100, 3), dtype=np.uint8)
    pixels[90:102, 40:52] = (131, 77, 201)
    shown = np.asarray(opened(palette.reduced(png(pixels))).convert("RGB"))[90:102, 40:52]
    assert len(np.unique(shown.reshape(-1, 3), axis=0)) == 1


def test_what_is_transparent_becomes_white() -> None:
    pixels = np.zeros((4, 4, 4), dtype=np.uint8)
    pixels[:2] = [10, 20, 30, 255]
    shown = np.asarray(opened(palette.reduced(png(pixels))).convert("RGB"))
    assert (shown[:2] == [10, 20, 30]).all() and (shown[2:] == 255).all()


def test_a_second_time_changes_nothing() -> None:
    noise = np.random.default_rng(1).integers(0, 256, (30, 30, 3), dtype=np.uint8)
    once = palette.reduced(png(noise))
    assert palette.reduced(once) == once


def test_bytes_that_are_no_picture_are_refused() -> None:
    with pytest.raises(OSError, match="cannot identify"):
        palette.reduced(b"no picture")
