"""What is kept of the contraction: one piece a space, class and denoiser, measured at all levels.

Denoisers: the kept network with and without guidance and without a class, networks of other targets
and lengths of training, the exact posterior of the same images with and without each estimate's own
image, and the Wiener filter.
"""

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from erdpaper import sampling
from erdpaper.datasets import OWN_MODEL
from erdpaper.files import write_atomically
from erdpaper.posterior import Empirical, Gaussian
from erdpaper.regimes import diversity, networks
from erdpaper.regimes.contraction import noised, of_fewer, ranks
from erdpaper.regimes.networks import Training
from erdpaper.regimes.plans import FASHION, Plan
from erdpaper.regimes.system import System
from erdpaper.tasks import fill, write_card

NAME = "11_pca_speciation/contraction"
N = 5_000
# log-SNR from noise to data, finer where something is thought to happen
LEVELS = {
    "latents": (*(-10 + 0.5 * k for k in range(25)), 3.0, 4.0, 6.0, 8.0),
    "pixels": (*(-10.0 + k for k in range(13)), 4.0, 6.0, 8.0),
}
# those at which guidance is tried and the images are looked at in parts
GUIDED = (-8.0, -6.0, -4.0, -2.0, 0.0, 2.0, 4.0, 6.0, 8.0)
SCALES = (0.0, 2.0, 4.0, 7.5)
# levels at which a network is compared with the exact posterior
COMPARED = (-8.0, -6.0, -4.0, -2.0, 0.0)
SUBJECTS = ("images", "classes", "exact", "wiener", "kept")
# training states whose posterior says which class a noisy state is of, and how many it is asked
_KNOWN, _ASKED = 20_000, 500
# fewer images than these are not looked at in parts
_DIVIDED = 100
_NO_FEWER: dict[str, Any] = {"halves": None, "parts": None}
# images whose estimates the classifier is shown
SEEN = 300
_BATCH = 500

# from states (N, ...), time and log-SNR to estimates (N, ...) by the name of their denoiser
Estimates = Callable[[Tensor, float, float], dict[str, Tensor]]


class Piece(NamedTuple):
    """One file of the work folder. subject: one of SUBJECTS, or target and length of a training."""

    space: str
    label: int
    subject: str

    @property
    def file(self) -> str:
        """Its name."""
        return f"{self.space}-{self.label}-{self.subject}.json"


def pieces(plan: Plan = FASHION) -> Iterator[Piece]:
    """All of them, those of latents first; other models than fashion have one network."""
    for space in plan.spaces[::-1]:
        for label in plan.counted:
            for subject in SUBJECTS:
                yield Piece(space, label, subject)
        for training in networks.trainings() if plan.model == OWN_MODEL else ():
            if training.space == space:
                for label in _classes_of(training, plan.counted):
                    yield Piece(space, label, f"{training.target}-{training.steps}")


def _classes_of(training: Training, classes: tuple[int, ...]) -> tuple[int, ...]:
    """Length of training is varied for eps and the first class alone, as all of pixels is."""
    longest = training.steps == networks.STEPS[training.space][-1]
    if longest and training.space == "latents":
        return classes
    return classes[:1] if longest or training.target == "eps" else ()


def images(plan: Plan) -> int:
    """How many training states of a class are shown to a denoiser."""
    return min(plan.size(N), plan.images[0])


def reached(system: System, space: str) -> list[float]:
    """The levels of a space that the system's schedule has."""
    first = float(system.schedule.logsnr(1.0))
    return [level for level in LEVELS[space] if level >= first]


def measure(piece: Piece, trained: Path, plan: Plan = FASHION) -> list[dict[str, Any]]:
    """The curves of a piece on the first training states of its class, `images` of them.

    trained: the folder of `networks.train`.

    Each is {space, label, name, levels} and, at these levels, `contraction.ranks`, at those of
    GUIDED `contraction.of_fewer`, and for networks agreement: the share of the estimates that the
    classifier gives the class; error: the variance of the difference from the exact posterior's
    estimate over that of the network's.
    """
    system = plan.system(piece.space)
    x0 = system.data("train", piece.label)[0][: images(plan)]
    total = float(x0.flatten(1).double().var(0).sum())
    if piece.subject == "images":
        return [_curve(piece, "images", [(0.0, ranks(x0.flatten(1), total))])]
    if piece.subject == "classes":
        return [_curve(piece, "class posterior", _committed(system, piece))]
    estimates = _subject(piece, system, x0, trained, plan)
    judge = None if piece.subject in ("exact", "wiener") else Judge(system, x0, piece.label)
    found: dict[str, list[tuple[float, dict[str, Any]]]] = {}
    for level in reached(system, piece.space):
        x_t, t = noised(x0, system.schedule, level, piece.label)
        for name, estimate in estimates(x_t, t, level).items():
            row = ranks(estimate.flatten(1), total)
            divided = level in GUIDED and len(x0) >= _DIVIDED
            row |= of_fewer(estimate.flatten(1)) if divided else _NO_FEWER
            if judge is not None:
                row |= judge(x_t, t, level, estimate)
            found.setdefault(name, []).append((level, row))
    return [_curve(piece, name, rows) for name, rows in found.items()]


def _curve(piece: Piece, name: str, rows: list[tuple[float, dict[str, Any]]]) -> dict[str, Any]:
    head = {"space": piece.space, "label": piece.label, "name": name}
    columns = {key: [row[key] for _, row in rows] for key in rows[0][1]}
    return head | {"levels": [level for level, _ in rows]} | columns


def _committed(system: System, piece: Piece) -> list[tuple[float, dict[str, Any]]]:
    """How often two draws from the exact posterior of states of a class are of one class.

    The posterior is that of training states of all classes, without the one that was noised.
    """
    x, labels = system.data("train", None)
    known = Empirical(x[:_KNOWN].flatten(1), labels[:_KNOWN])
    own = (known.labels == piece.label).nonzero().squeeze(-1)[:_ASKED]
    rows = []
    for level in reached(system, "latents"):
        x_t, t = noised(x[own], system.schedule, level, piece.label)
        p = known.class_probabilities(x_t.flatten(1), *system.schedule(t), exclude=own)
        rows.append((level, {"agreement": round(float(p.square().sum(1).mean()), 5)}))
    return rows


class Judge:
    """What the classifier and the exact posterior say of a network's estimates."""

    def __init__(self, system: System, x0: Tensor, label: int) -> None:
        self.system, self.label = system, label
        self.own = Empirical(x0.flatten(1))

    def __call__(self, x_t: Tensor, t: float, level: float, estimate: Tensor) -> dict[str, Any]:
        """agreement, and error at the levels COMPARED (None elsewhere), as in `measure`."""
        seen = self.system.seen(estimate[:SEEN]).logits.argmax(1)
        row: dict[str, Any] = {"agreement": round(float((seen == self.label).float().mean()), 4)}
        if level not in COMPARED:
            return row | {"error": None}
        exact = self.own.posterior_mean(x_t.flatten(1), *self.system.schedule(t))
        error = (estimate.flatten(1) - exact).double().var(0).sum()
        return row | {"error": float(f"{float(error / estimate.double().var(0).sum()):.5g}")}


def _subject(piece: Piece, system: System, x0: Tensor, trained: Path, plan: Plan) -> Estimates:
    if piece.subject == "kept":
        # guidance doubles the cost: in the first of two spaces for the first class alone
        everywhere = piece.space == plan.spaces[-1] or piece.label == plan.counted[0]
        return _kept(system, piece.label, plan.network, GUIDED if everywhere else ())
    if piece.subject == "exact":
        return _exact(system, x0)
    if piece.subject == "wiener":
        wiener = sampling.exact(Gaussian.fitted(x0.flatten(1).double()), system.schedule)
        return lambda x_t, t, _: {"Wiener filter": wiener(x_t.flatten(1), t).x0}
    target, steps = piece.subject.split("-")
    network = networks.load(trained, Training(piece.space, target, int(steps)))
    label = torch.full((_BATCH,), piece.label)
    denoise = sampling.from_model(network, system.schedule, target, label)
    return lambda x_t, t, _: {piece.subject: batched(denoise, x_t, t)}


def _kept(system: System, label: int, name: str, guided: tuple[float, ...]) -> Estimates:
    known, unknown = system.denoiser(label, 1.0), system.denoiser(None, 1.0)

    def estimates(x_t: Tensor, t: float, level: float) -> dict[str, Tensor]:
        conditional = batched(known, x_t, t)
        found = {name: conditional}
        if level in guided:
            plain = batched(unknown, x_t, t)
            # guidance is linear in the estimates
            found |= {f"guidance {w:g}": torch.lerp(plain, conditional, w) for w in SCALES}
        return found

    return estimates


def _exact(system: System, x0: Tensor) -> Estimates:
    own = Empirical(x0.flatten(1))

    def estimates(x_t: Tensor, t: float, level: float) -> dict[str, Tensor]:
        x_t, levels = x_t.flatten(1), system.schedule(t)
        without = torch.arange(len(x_t))
        return {
            "exact, own image in": own.posterior_mean(x_t, *levels),
            "exact, own image out": own.posterior_mean(x_t, *levels, exclude=without),
        }

    return estimates


def batched(denoise: sampling.Denoiser, x_t: Tensor, t: float) -> Tensor:
    """Endpoint estimates of states (N, ...), N a multiple of 500 for a denoiser with labels."""
    return torch.cat([denoise(part, t).x0 for part in x_t.split(_BATCH)])


def tasks(work: Path, trained: Path, plan: Plan = FASHION) -> dict[Path, Callable[[], str]]:
    """The files of the work folder and what makes them."""
    curves: dict[Path, Callable[[], str]] = {
        work / piece.file: partial(_text, piece, trained, plan) for piece in pieces(plan)
    }
    return curves | diversity.tasks(work, plan)


def _text(piece: Piece, trained: Path, plan: Plan) -> str:
    return "".join(json.dumps(curve) + "\n" for curve in measure(piece, trained, plan))


def collect(work: Path, trained: Path, out: Path, jobs: int, plan: Plan = FASHION) -> None:
    """Measure what the work folder lacks, and keep all curves in `out` with their card."""
    made = tasks(work, trained, plan)
    fill(made, jobs, "contraction", "curve")
    write_atomically(out / "runs.jsonl", "".join(path.read_text() for path in made))
    facts = {"images": images(plan), "classes": plan.counted, "seen": SEEN, "pieces": len(made)}
    write_card(out, plan.command, "curve", plan.device, **facts)
