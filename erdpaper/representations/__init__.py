"""What a trained network's activations and predictions are like, noise level by noise level.

`features` reads hidden activations, `probe` asks what labels they carry, `cka` compares two sets of
them on the same points, and `geometry` describes the cloud of a network's predictions [P Fig 1].
Features are (N, F), a row for each point, and everything is computed in float64.
"""

from erdpaper.representations.cka import cka
from erdpaper.representations.features import hidden_states
from erdpaper.representations.geometry import Plane, Spread, plane, spread
from erdpaper.representations.probe import Probe, linear_probe, neighbour_accuracy

__all__ = [
    "Plane",
    "Probe",
    "Spread",
    "cka",
    "hidden_states",
    "linear_probe",
    "neighbour_accuracy",
    "plane",
    "spread",
]
