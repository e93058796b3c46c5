"""What injection does to images: where it changes them, and what is left of two classes at once."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from erdpaper.guidance import combine
from erdpaper.regimes import outcomes
from erdpaper.regimes.course import Course, Stop
from erdpaper.regimes.injected import encoded, over
from erdpaper.regimes.injection_arm import Result, Runs
from erdpaper.regimes.outcomes import Judged

# log-SNR at which the class of the endpoint estimate is looked at
LOOKS = tuple(-7 + k / 2 for k in range(21))


def responses(runs: Runs, starts: list[float], found: list[Judged], level: float) -> Result:
    """How low and high frequencies answer to sliding windows, as shares of the whole window's.

    centre_gap: the mean start, weighted by response, of high less that of low frequencies.
    late_ratio: mean response of high over low among windows that begin at `level` or later; None
    if there are none.
    """
    plain = runs.untouched.images
    each = torch.stack([outcomes.distances(j.images, plain) for j in found], 1)  # (2, W, N)
    whole = outcomes.distances(runs.whole.images, plain)[:, None]  # (2, 1, N)
    values = torch.cat([each, whole], 1).double().numpy()
    at, late = np.array(starts), np.array(starts) >= level

    def shares(means: np.ndarray) -> np.ndarray:
        return np.asarray(means[:, :-1] / means[:, -1:])

    def gap(means: np.ndarray) -> float:
        low, high = shares(means)
        return float((high * at).sum() / high.sum() - (low * at).sum() / low.sum())

    def ratio(means: np.ndarray) -> float:
        low, high = shares(means)
        return float(high[late].mean() / low[late].mean())

    low, high = shares(values.mean(-1))
    return {
        "low": low.round(4).tolist(),
        "high": high.round(4).tolist(),
        "centre_gap": outcomes.resampled(values, gap),
        "late_ratio": outcomes.resampled(values, ratio) if late.any() else None,
    }


def half(runs: Runs) -> Result:
    """The arm at strength 1/2 throughout: classes, hybrids, low-frequency shifts, decision times.

    hybrids: share by probability and by features, here and in the mean of both classes' own;
    sure: share of samples sure to be of one of the two, over the mean of both classes' own.
    """
    made = replace(runs.course, strength=0.5)
    final = outcomes.judge(runs.system, made.run(runs.start, made.end, inject=True).x)
    own = (runs.untouched, runs.whole)
    labels = runs.labels

    def sure(judged: Judged, wanted: list[int]) -> float:
        among = torch.isin(judged.classes, torch.tensor(wanted).to(judged.classes))
        return float((among & (judged.top >= outcomes.SURE)).double().mean())

    kept = (final.classes == labels[0]) & (final.top >= outcomes.SURE)
    kept &= runs.untouched.classes == labels[0]
    hybrid = [outcomes.hybrids(j, *own).mean(1) for j in own]
    alone = [sure(j, [k]) for j, k in zip(own, labels, strict=True)]
    between = outcomes.hybrids(final, *own)
    return {
        "classes": encoded(final.classes),
        "hybrids": ["".join(str(int(h)) for h in one) for one in between],
        "own_hybrids": ((hybrid[0] + hybrid[1]) / 2).tolist(),
        "sure": over(2 * sure(final, labels), sum(alone)),
        "shift": moved(runs, final, kept),
        "decided": decided(runs, made, final),
    }


def moved(runs: Runs, judged: Judged, kept: Tensor) -> Result | None:
    """`outcomes.shift` of some samples of an arm, as a plain dictionary."""
    means = outcomes.class_means(runs.system, *runs.labels)
    found = outcomes.shift(judged, runs.untouched, means, kept)
    return None if found is None else found._asdict()


def endpoint(made: Course, x: Tensor, index: int) -> Tensor:
    """The endpoint estimate that the sampler is told at a level while all is injected."""
    t = float(made.times[index])
    return combine(made.denoise(x, t), made.adversary(x, t), made.strength).x0


def trajectory(made: Course, start: Stop, to: int, places: list[int]) -> Tensor:
    """Endpoint estimates at rising levels below the end, and last the samples, (K + 1, N, ...).

    Injected from the start on down to level `to`, and plain from there.
    """
    here, found = start, []
    for k in sorted({to, *places}):
        here = made.run(here, k, inject=k <= to)
        if k in places:
            t = float(made.times[k])
            told = endpoint(made, here.x, k) if k < to else made.denoise(here.x, t).x0
            found.append(told)
    return torch.stack([*found, made.run(here, made.end).x])


def decided(runs: Runs, made: Course, final: Judged) -> list[float]:
    """Log-SNR from which on each sample's endpoint estimate keeps its final class, (N,).

    Looked at every half unit from -7, or where the run begins, to 3; the last of them where it
    still changes after it.
    """
    looks = [level for level in LOOKS if level >= made.first]
    index = [made.index(level) for level in looks]
    states = made.states(runs.start, index, inject=True)
    seen = runs.judged([endpoint(made, x, k) for x, k in zip(states, index, strict=True)])
    same = torch.stack([j.classes == final.classes for j in seen])  # (L, N)
    kept = same.flip(0).cummin(0).values.flip(0)
    first = torch.where(kept.any(0), kept.float().argmax(0), len(looks) - 1)
    return [looks[k] for k in first.tolist()]
