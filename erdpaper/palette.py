"""PNG pictures with at most 256 colours: a third of the size, and alike to the eye.

The figures of the book have few colours, and thousands of shades where lines meet the background.
"""

import io

from PIL import Image


def reduced(png: bytes) -> bytes:
    """The picture on white with its 256 commonest colours; one that has a palette stays as it is.

    Its resolution is kept.  Raises OSError for bytes that are no picture.
    """
    picture = Image.open(io.BytesIO(png))
    if picture.mode == "P":
        return png
    solid = Image.new("RGB", picture.size, "white")
    rgba = picture.convert("RGBA")
    solid.paste(rgba, mask=rgba.getchannel("A"))
    # no dither: it would strew dots over plain areas
    few = solid.quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    few.save(buffer, "PNG", optimize=True, dpi=picture.info.get("dpi"))
    return buffer.getvalue()
