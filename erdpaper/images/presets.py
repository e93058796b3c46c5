"""What `erdpaper train` can train: one row a run, everything that decides it.

data: "fashion" (1x28x28 pixels) or "fashion-latents" (4x7x7, see `images.data`), with the classes.
model: a name of one of the files in `erdpaper.models`.  weight: a row of `images.weighting`.
The rows of the first table lower the weighted error of a diffusion target [P 1], those of the
second are the autoencoder and the classifier that the latents and the metrics stand on.
"""

from typing import Any, Literal, NamedTuple

from erdpaper.training import Recipe


class Preset(NamedTuple):
    """One row: a diffusion model and how it is trained."""

    data: str
    model: str
    target: str
    weight: str
    schedule: str
    batch: int
    dropout: float
    recipe: Recipe

    def described(self) -> dict[str, Any]:
        """Every setting by name, the recipe's among them."""
        own = self._asdict()
        recipe: Recipe = own.pop("recipe")
        return own | vars(recipe)


class Tool(NamedTuple):
    """One row: a network that is no diffusion model."""

    kind: Literal["autoencoder", "classifier"]
    model: str
    batch: int
    recipe: Recipe

    def described(self) -> dict[str, Any]:
        """Every setting by name, the recipe's among them."""
        own = self._asdict()
        recipe: Recipe = own.pop("recipe")
        return own | vars(recipe)


def _adam(steps: int, lr: float, **other: Any) -> Recipe:
    return Recipe(steps, lr, "cosine", warmup=min(200, steps // 10), **other)


TOOLS = {
    "fashion-classifier":  Tool("classifier",  "classifier", 128, _adam(3_000, 2e-3)),
    "fashion-autoencoder": Tool("autoencoder", "KL-fashion",  64, _adam(1_600, 2e-3, clip=1.0)),
}  # fmt: skip
