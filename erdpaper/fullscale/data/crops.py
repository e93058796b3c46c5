"""How an image becomes a square of a given side, as the literature does for each data set."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]
# (an RGB image, the side) -> (side, side, 3) bytes
Crop = Callable[[Image.Image, int], Pixels]

# width and height of CelebA's aligned images, and of the square cut out of them
CELEBA_SIZE = (178, 218)
_FACE = 140


def centre(image: Image.Image, side: int) -> Pixels:
    """The central square, resized as for ADM (Dhariwal and Nichol 2021), (side, side, 3).

    The image is halved by box averages while its shorter side is at least twice `side`, the rest of
    the way goes by bicubic interpolation, and the middle is cut out last.
    """
    while min(image.size) >= 2 * side:
        width, height = image.size
        image = image.resize((width // 2, height // 2), Image.Resampling.BOX)
    scale = side / min(image.size)
    width, height = (round(length * scale) for length in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    return _cut(image, side)


def celeba(image: Image.Image, side: int) -> Pixels:
    """The face in an aligned CelebA image of 178 x 218 pixels, (side, side, 3).

    The paper follows its reference [52] [P 4.1], the score SDE of Song et al. 2021: the central
    140 x 140 pixels, resized by antialiased linear interpolation.
    """
    face = Image.fromarray(_cut(image, _FACE))
    return np.asarray(face.resize((side, side), Image.Resampling.BILINEAR))


def _cut(image: Image.Image, side: int) -> Pixels:
    """The middle of an image; where it cannot be exact, half a pixel up and left of it."""
    left, top = ((length - side) // 2 for length in image.size)
    return np.asarray(image)[top : top + side, left : left + side]
