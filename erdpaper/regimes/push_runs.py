"""Steering and injection of one class towards another, and what is measured of the samples.

Vectors are compared at equal total push (`interventions.steering`), in radii of the source class:
the root of the sum of its variances, the distance at which its samples lie from their mean.
"""

from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from erdpaper import metrics, sampling
from erdpaper.images.measure import Features
from erdpaper.interventions import directions, steering
from erdpaper.interventions.injection import injection
from erdpaper.interventions.window import Window
from erdpaper.posterior import Gaussian
from erdpaper.regimes.system import System, check_classes
from erdpaper.sampling import Hooks, OnPrediction, Prediction
from erdpaper.spectral import Principal, principal

DIRECTIONS, SHARED = 20, 5  # k_A = k_B and m; the thesis names neither
CONSTRUCTIONS = ("weighted sum", "SVD", "shared")
TOWARDS, REVERSED = 0, -1
Kind = Literal[
    "weighted sum",
    "SVD",
    "shared",
    "residual",
    "mean difference",
    "isotropic",
    "source",
    "injection",
]


class Pair(NamedTuple):
    """Labels of the class that is asked for and of the one it is steered towards."""

    source: int
    target: int


class Vector(NamedTuple):
    """What is done. variant: TOWARDS the target's mean, REVERSED, or 1, 2, .. for draws.

    A draw is one of the signs of a construction, or of the vector itself for "isotropic" and
    "source" (from the source's covariance), which are then turned towards the target's mean.
    """

    kind: Kind
    variant: int = TOWARDS


@dataclass(frozen=True)
class Setting:
    """How samples are drawn; steps of equal length in t, as Stable Diffusion's are."""

    sampler: Literal["ddpm", "ddim"] = "ddpm"
    guidance: float = 1.0
    steps: int = 20
    samples: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse a sampler that makes more than one call a step."""
        if self.sampler not in ("ddpm", "ddim"):
            raise ValueError(f"the sampler must be ddpm or ddim, not {self.sampler!r}")


class Reference(NamedTuple):
    """Real images, decoded: states (R, D), features (R, F), mean feature of each class (C, F).

    usual: median distance to the nearest of their features, of real images that are not among them,
    by the class that the classifier gives them, (C,).
    """

    states: Tensor
    features: Tensor
    means: Tensor
    usual: Tensor


@cache
def reference(system: System, n: int = 5_000, probes: int = 2_000) -> Reference:
    """The first n of the test split; the next ones measure what is usual.

    A split that has fewer than n + probes is shared in that proportion. For a class that the
    classifier gives to none of the probes, what is usual is that of all of them.
    """
    states, labels = system.data("test", None)
    n = min(n, len(states) * n // (n + probes))
    seen = system.seen(states[: n + probes])
    features, C = seen.features.double(), len(system.classes)
    known = labels[:n]
    means = torch.stack([features[:n][known == c].mean(0) for c in range(C)])
    near = metrics.nearest_distances(features[n:], features[:n])
    given = seen.logits[n:].argmax(1)
    usual = torch.stack([near[_those(given == c)].median() for c in range(C)])
    return Reference(states[:n].flatten(1).double(), features[:n], means, usual)


def _those(flags: Tensor) -> Tensor:
    """Flags (N,) as they are, or all of them true where none is."""
    return flags if bool(flags.any()) else ~flags


class Bench:
    """One pair of classes of a system, ready to be steered."""

    def __init__(
        self, system: System, pair: Pair, setting: Setting, real: Reference | None = None
    ) -> None:
        check_classes(torch.tensor(pair), system.classes)
        self.system, self.pair, self.setting = system, pair, setting
        self._real = real
        first = float(sampling.times.karras(system.schedule, 1)[0])
        self.grid = sampling.times.uniform(setting.steps, first)

    @cached_property
    def real(self) -> Reference:
        """What samples are held against."""
        return self._real or reference(self.system)

    @cached_property
    def source(self) -> Principal:
        """Principal directions A of the source class."""
        return principal(self.system.data("train", self.pair.source)[0], DIRECTIONS)

    @cached_property
    def target(self) -> Principal:
        """Principal directions B of the target class."""
        return principal(self.system.data("train", self.pair.target)[0], DIRECTIONS)

    @property
    def difference(self) -> Tensor:
        """mean_B - mean_A, (D,)."""
        return self.target.mean - self.source.mean

    @cached_property
    def radius(self) -> float:
        """The root of the sum of the variances of the source class."""
        x = self.system.data("train", self.pair.source)[0].flatten(1)
        return float(x.double().var(0).sum().sqrt())

    @cached_property
    def law(self) -> Gaussian:
        """The Gaussian of the source class, flattened, float64."""
        return Gaussian.fitted(self.system.data("train", self.pair.source)[0].flatten(1).double())

    def delta(self, vector: Vector) -> Tensor:
        """The steering vector as its construction gives it, (*shape)."""
        kind, variant = vector
        made = self._random(vector) if kind in ("isotropic", "source") else self._made(vector)
        made = -made if variant == REVERSED else made
        return made.float().view(self.system.shape)

    def _made(self, vector: Vector) -> Tensor:
        kind, variant = vector
        A, B = self.source.directions, self.target.directions

        def rule(k: int) -> directions.Orientation:
            if variant in (TOWARDS, REVERSED):
                return directions.towards(self.difference)
            return directions.given(_signs(k, variant))

        if kind == "weighted sum":
            return directions.weighted_sum(A, self.source.variances, B, rule(len(A)))
        if kind == "SVD":
            return directions.dominant(A, B, rule(1))
        if kind in ("shared", "residual"):
            part: directions.Part = "shared" if kind == "shared" else "residual"
            return directions.disentangled(A, B, SHARED, rule(SHARED), part)
        if kind == "mean difference":
            return self.difference
        raise ValueError(f"{kind} is no vector")

    def _random(self, vector: Vector) -> Tensor:
        generator = torch.Generator().manual_seed(vector.variant)
        if vector.kind == "isotropic":
            drawn = torch.randn(len(self.difference), generator=generator).double()
        else:
            x = self.system.data("train", self.pair.source)[0].flatten(1).double()
            drawn = torch.randn(len(x), generator=generator).double() @ (x - self.source.mean)
        return drawn * directions.towards(self.difference)(drawn[None])[0]

    def run(self, hooks: Hooks | None = None) -> Tensor:
        """Samples (N, *shape) of the source class; the same noise for the same setting."""
        how, schedule = self.setting, self.system.schedule
        denoise = self.system.denoiser(self.pair.source, how.guidance)
        generator = torch.Generator().manual_seed(how.seed)
        x = self.system.start(how.samples, how.seed)
        eta = 1.0 if how.sampler == "ddpm" else 0.0
        return sampling.ddim(
            denoise, x, schedule, self.grid, generator, eta=eta, hooks=hooks or Hooks()
        )

    def hooks(self, vector: Vector, amount: float, window: Window | None = None) -> Hooks:
        """amount: the total push in radii, or the strength of an injection in [0, 1]."""
        if vector.kind == "injection":
            other = self.system.denoiser(self.pair.target, self.setting.guidance)
            return Hooks(on_prediction=injection(other, amount, window))
        place = (self.system.schedule, self.grid, window)
        delta = steering.at_push(self.delta(vector), amount * self.radius, *place)
        return Hooks(on_state=steering.Steering(delta, *place))

    def steered(self, vector: Vector, amount: float, window: Window | None = None) -> Tensor:
        """Samples (N, *shape) under a push or an injection; see `hooks`."""
        return self.run(self.hooks(vector, amount, window))

    def measured(self, z: Tensor) -> dict[str, Any]:
        """How samples are classified and how far they are from real images.

        shares: of every class; share, low, high: of the target with its 95 % interval; realism:
        median distance of a feature to the nearest real one over what is usual for its class;
        states: median distance of a state to the nearest real one; way: of the mean feature from
        the source's (0) to the target's (1).
        """
        seen = self.system.seen(z)
        wanted = torch.full((len(z),), self.pair.target)
        agreement = metrics.class_agreement(seen.logits, wanted)
        far = metrics.nearest_distances(z.flatten(1).double(), self.real.states)
        near, way = self.each(seen)
        return {
            "shares": metrics.class_balance(seen.logits).shares.tolist(),
            "share": agreement.share,
            "low": agreement.low,
            "high": agreement.high,
            "realism": float(near.median()),
            "states": float(far.median()),
            "way": float(way.mean()),
        }

    def each(self, seen: Features) -> tuple[Tensor, Tensor]:
        """Realism and way of every sample, (N,) each, float64; see `measured`."""
        features, real = seen.features.double(), self.real
        near = metrics.nearest_distances(features, real.features)
        from_mean, to_mean = real.means[self.pair.source], real.means[self.pair.target]
        along = (to_mean - from_mean) / (to_mean - from_mean).square().sum()
        return near / real.usual[seen.logits.argmax(1)], (features - from_mean) @ along

    def endpoint_probabilities(self, hooks: Hooks) -> dict[str, list[float]]:
        """Mean probability that x0hat is of the source and of the target, at every level."""
        recorder = sampling.Recorder()
        self.run(Hooks(hooks.on_state, _recorded(hooks.on_prediction, recorder)))
        levels = [self.system.seen(x0).logits.softmax(1).mean(0) for x0 in recorder.endpoints]
        mean = torch.stack(levels)  # (R, C)
        return {name: mean[:, label].tolist() for name, label in self.pair._asdict().items()}


def _recorded(change: OnPrediction | None, recorder: OnPrediction) -> OnPrediction:
    """Record a prediction after it was changed."""

    def on_prediction(x: Tensor, t: float, prediction: Prediction) -> Prediction:
        return recorder(x, t, change(x, t, prediction) if change else prediction)

    return on_prediction


def _signs(k: int, draw: int) -> Tensor:
    generator = torch.Generator().manual_seed(draw)
    return 2.0 * torch.randint(2, (k,), generator=generator) - 1
