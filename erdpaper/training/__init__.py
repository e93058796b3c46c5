"""Training: batches of noisy data, the loop over them, and checkpoints that it can go on from."""

from erdpaper.training.ahead import Ahead
from erdpaper.training.batches import (
    Batch,
    Data,
    Draw,
    Objective,
    TimeMap,
    density_times,
    loss_of,
    squared_error,
    together,
    uniform_times,
    unweighted,
)
from erdpaper.training.devices import Precision, engine
from erdpaper.training.folder import RunFolder
from erdpaper.training.loop import (
    Decay,
    Loss,
    Recipe,
    Record,
    Trainer,
    TrainingError,
    averaged,
    share,
    train,
)
from erdpaper.training.stream import Held, Labels, Source, Stream, generator_for
from erdpaper.training.truncation import SoftTruncation

__all__ = [
    "Ahead",
    "Batch",
    "Data",
    "Decay",
    "Draw",
    "Held",
    "Labels",
    "Loss",
    "Objective",
    "Precision",
    "Recipe",
    "Record",
    "RunFolder",
    "SoftTruncation",
    "Source",
    "Stream",
    "TimeMap",
    "Trainer",
    "TrainingError",
    "averaged",
    "density_times",
    "engine",
    "generator_for",
    "loss_of",
    "share",
    "squared_error",
    "together",
    "train",
    "uniform_times",
    "unweighted",
]
