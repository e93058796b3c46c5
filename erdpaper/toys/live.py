"""Toy networks trained on the spot."""

from tqdm import tqdm

from erdpaper.models.mlp import MLP
from erdpaper.toys.spec import Toy
from erdpaper.training import train


def trained(toy: Toy) -> MLP:
    """The network of a description after its training, with a progress bar."""
    network = toy.network()
    records = train(network, toy.draw(), toy.steps, toy.lr, toy.decay)
    for _ in tqdm(records, desc=toy.key, total=toy.steps, unit="step", mininterval=1, leave=False):
        pass
    return network
