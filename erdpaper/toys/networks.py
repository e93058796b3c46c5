"""The trained networks that the chapters on the kernel look into, kept as files of weights.

They are the paper's toy networks [P F.1]: four targets on three schedules, with both readings of
the time embedding, three seeds each. Weights go through safetensors; no pickle is read.
"""

from functools import partial
from itertools import product
from pathlib import Path

from safetensors.torch import load_file, save

from erdpaper import datasets
from erdpaper.models.mlp import MLP
from erdpaper.tasks import fill, missing
from erdpaper.toys.grid import TARGETS
from erdpaper.toys.spec import SCHEDULES, Toy
from erdpaper.training import train

NAME = "04_ntk_spectrum"
SEEDS = range(3)
TIME_SCALES = (1.0, 1_000.0)


def wanted() -> list[Toy]:
    """Every trained network that is measured, the paper's reading and the first seed first."""
    every = product(SEEDS, TIME_SCALES, TARGETS, SCHEDULES)
    return [Toy(y, s, time_scale=scale, seed=seed) for seed, scale, y, s in every]


def file_of(toy: Toy, folder: Path) -> Path:
    """Where the weights of a toy lie in a folder."""
    return folder / f"{toy.key}.safetensors"


def train_all(toys: list[Toy], folder: Path, jobs: int) -> None:
    """Train the networks whose weights the folder lacks."""
    fill({file_of(toy, folder): partial(_weights, toy) for toy in toys}, jobs, "networks")


def _weights(toy: Toy) -> bytes:
    network = toy.network()
    for _ in train(network, toy.draw(), toy.steps, toy.lr, toy.decay):
        pass
    return bytes(save(network.state_dict()))


def kept_folder() -> Path:
    """The folder of the weights that come with the book: seed 0, t as it is."""
    return datasets.data_dir() / "results" / NAME / "networks"


def load(toy: Toy, folder: Path | None = None) -> MLP:
    """A trained network; one that the book does not keep is made by `erdpaper kernels`."""
    path = file_of(toy, folder or kept_folder())
    network = toy.network()
    try:
        network.load_state_dict(load_file(path))
    except FileNotFoundError:
        raise missing(path, "erdpaper kernels") from None
    return network.requires_grad_(False)
