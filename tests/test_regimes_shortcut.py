"""Starts of sampling: their laws, their calls of the network, and what is said of kept runs."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from erdpaper import metrics, sampling
from erdpaper.images.measure import Features
from erdpaper.posterior import Gaussian
from erdpaper.regimes import shortcut, shortcut_runs
from erdpaper.regimes.plans import FASHION, Plan
from erdpaper.regimes.shortcut import JUMP, NOISE, STATISTICS, Start
from erdpaper.regimes.system import System
from erdpaper.schedules import Cosine, StableDiffusion

SCHEDULE = Cosine()
MEANS = torch.tensor([[6.0, 0.0, 0.0], [-6.0, 2.0, 0.0]])
SPREAD = torch.tensor([3.0, 1.0, 0.3])


def data(split: str, label: int | None) -> tuple[Tensor, Tensor]:
    """Two Gaussians, (N, 3)."""
    generator = torch.Generator().manual_seed(0 if split == "train" else 1)
    labels = torch.arange(4_000) % 2
    x = MEANS[labels] + SPREAD * torch.randn(4_000, 3, generator=generator)
    wanted = labels == labels if label is None else labels == label
    return x[wanted], labels[wanted]


class Counting:
    """The exact denoisers of both classes, which count their calls and keep what they see."""

    def __init__(self) -> None:
        self.calls, self.first = 0, torch.empty(0)
        laws = [Gaussian(m, torch.diag(SPREAD.square())) for m in MEANS]
        self.exact = [sampling.exact(law, SCHEDULE) for law in laws]

    def __call__(self, label: object, scale: float = 1.0) -> sampling.Denoiser:
        assert isinstance(label, Tensor)

        def denoise(x: Tensor, t: float) -> sampling.Prediction:
            if self.calls == 0:
                self.first = x
            self.calls += 1
            both = [own(x, t) for own in self.exact]
            wanted, pairs = (label == 1)[:, None], zip(*both, strict=True)
            return sampling.Prediction(*(torch.where(wanted, b, a) for a, b in pairs))

        return denoise


def system(denoiser: Counting) -> System:
    def look(x: Tensor) -> Features:
        return Features(x, torch.stack([x[:, 0], -x[:, 0]], 1))

    return System("two", SCHEDULE, (3,), ("a", "b"), denoiser, data, lambda x: x, look)


@pytest.mark.parametrize("kind", shortcut.STARTS)
@pytest.mark.parametrize("calls", [2, 7])
def test_all_starts_make_the_calls_they_are_given(kind: str, calls: int) -> None:
    count = Counting()
    x = shortcut.draw(system(count), Start(kind, -2.0), calls, torch.arange(6) % 2, 0)
    assert count.calls == calls and x.shape == (6, 3)


def test_grids_begin_where_they_should_and_end_at_the_data() -> None:
    two = system(Counting())
    found = {kind: shortcut.grid(two, Start(kind, -2.0), 5) for kind in (STATISTICS, NOISE, JUMP)}
    k = {kind: (-SCHEDULE.logsnr(t) / 2).exp() for kind, t in found.items()}
    for kind, times in found.items():
        assert len(times) == 6 and times[-1] == 0, kind
    assert float(k[STATISTICS][0]) == pytest.approx(math.e)
    assert float(k[NOISE][0]) == pytest.approx(80) == float(k[JUMP][0])
    assert float(k[JUMP][1]) == pytest.approx(math.e)
    # after the jump, EDM's grid of one call less
    rest = shortcut.grid(two, Start(STATISTICS, -2.0), 4)
    torch.testing.assert_close(found[JUMP][1:], rest)


@pytest.mark.parametrize("kind", [STATISTICS, *shortcut.OTHERS])
def test_starts_have_the_mean_and_covariance_of_their_law(kind: str) -> None:
    count, n = Counting(), 20_000
    labels = torch.arange(n) % 2
    shortcut.draw(system(count), Start(kind, -1.0), 1, labels, 0)
    alpha, sigma = (float(c) for c in SCHEDULE(float(SCHEDULE.time(torch.tensor(-1.0).double()))))
    everyone = torch.cov(data("train", None)[0].T)
    for label in range(2):
        own = torch.cov(data("train", label)[0].T)
        mean, cov = {
            "class mean": (MEANS[label], torch.zeros(3, 3)),
            "all classes": (MEANS.mean(0), everyone),
            "no statistics": (torch.zeros(3), torch.zeros(3, 3)),
        }.get(kind, (MEANS[label], own))
        seen = count.first[labels == label]
        expected = alpha**2 * cov + sigma**2 * torch.eye(3)
        torch.testing.assert_close(seen.mean(0), alpha * mean, atol=0.1, rtol=0)
        torch.testing.assert_close(torch.cov(seen.T), expected, atol=0.25, rtol=0.05)


def test_the_exact_denoiser_needs_no_more_than_the_law_of_its_class() -> None:
    # both ends are Gaussian: a start from the class's own law leads to the class
    labels = torch.arange(4_000) % 2
    x = shortcut.draw(system(Counting()), Start(STATISTICS, 0.0), 60, labels, 1)
    for label in range(2):
        own = x[labels == label]
        torch.testing.assert_close(own.mean(0), MEANS[label], atol=0.3, rtol=0)
        torch.testing.assert_close(own.std(0), SPREAD, atol=0, rtol=0.08)


def test_noise_is_the_same_for_all_starts_and_changes_with_the_seed() -> None:
    labels = torch.arange(6) % 2
    seen = {}
    for kind, seed in ((NOISE, 0), (JUMP, 0), ("no statistics", 0), (NOISE, 1)):
        count = Counting()
        shortcut.draw(system(count), Start(kind, -2.0), 2, labels, seed)
        seen[kind, seed] = count.first / count.first.norm()
    torch.testing.assert_close(seen[NOISE, 0], seen["no statistics", 0])
    torch.testing.assert_close(seen[NOISE, 0], seen[JUMP, 0])
    assert not torch.allclose(seen[NOISE, 0], seen[NOISE, 1])


def test_speciation_is_that_of_the_largest_variance() -> None:
    found = shortcut.speciation_level(system(Counting()))
    values = np.linalg.eigvalsh(np.cov(data("train", None)[0].numpy().T, bias=True))
    assert found == pytest.approx(-math.log(values[-1] - 1), abs=1e-4)


def test_quality_of_real_states_is_perfect_but_for_their_number() -> None:
    two = system(Counting())
    x, labels = data("test", None)
    whole = shortcut.reference(two)
    found = shortcut.quality(two, x[:2_000], labels[:2_000], whole)
    truth = metrics.Moments(3).update(x)
    own = metrics.Moments(3).update(x[:2_000])
    assert found["fd"] == pytest.approx(metrics.frechet_distance(own, truth), rel=1e-4)
    assert found["precision"] == found["recall"] == 1
    assert found["agreement"] > 0.95
    first = shortcut.reference(two, 100)
    torch.testing.assert_close(first.features, x[:100].double())
    # as many real states as samples, the first of them
    few = x[:300] + torch.tensor([0.0, 0.5, 0.5])
    near = metrics.precision_recall(few.double(), x[:300].double())
    some = shortcut.quality(two, few, labels[:300], whole)
    assert some["precision"] == pytest.approx(near.precision, abs=1e-3)
    assert some["recall"] == pytest.approx(near.recall, abs=1e-3)
    assert 0.3 < near.recall < 0.95
    moved = shortcut.quality(two, x[:2_000] + torch.tensor([0.0, 5.0, 0.0]), labels[:2_000], whole)
    assert moved["fd"] == pytest.approx(25, rel=0.05) and moved["recall"] < 0.5


def test_what_cannot_be_started_is_refused_in_one_sentence() -> None:
    two = system(Counting())
    with pytest.raises(ValueError, match=r"the start must be one of class statistics, .*'mean'"):
        shortcut.grid(two, Start("mean", 0.0), 5)
    with pytest.raises(ValueError, match="needs at least 2 network calls, got 1"):
        shortcut.grid(two, Start(JUMP, 0.0), 1)
    with pytest.raises(ValueError, match="log-SNR of a start must be a finite number, got nan"):
        shortcut.grid(two, Start(STATISTICS, math.nan), 5)


def line(start: str, calls: int, seed: int, fd: float, offset: float = 0.0) -> dict[str, object]:
    head = {"start": start, "calls": calls, "seed": seed, "offset": offset, "logsnr": -3.0}
    return head | {"fd": fd, "agreement": 0.9}


def test_kept_runs_are_paired_by_seed() -> None:
    lines = [line(NOISE, 6, seed, 10.0 * (seed + 1)) for seed in (2, 0, 1)]
    lines += [line(STATISTICS, 6, seed, 5.0 * (seed + 1)) for seed in (1, 2, 0)]
    kept = shortcut_runs.Kept(tuple(lines), {})
    assert kept.values("fd", NOISE, 6) == [10, 20, 30]
    ratio = kept.ratio((STATISTICS, 6, 0.0), (NOISE, 6, 0.0))
    assert ratio.low == pytest.approx(0.5) == pytest.approx(ratio.high)
    assert kept.level == -3
    with pytest.raises(LookupError, match="no kept run of jump with 6 calls at offset 0"):
        kept.values("fd", JUMP, 6)


def test_saved_calls_are_read_between_the_numbers_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shortcut_runs, "CALLS", (10, 40))
    lines = []
    for seed in range(3):
        # 1.05 times the long run's distance is crossed in the middle of the logarithms
        lines += [line(NOISE, 160, seed, 1.0), line(NOISE, 40, seed, 1.05 * 2)]
        lines += [line(NOISE, 10, seed, 9.0), line(STATISTICS, 40, seed, 1.05 / 2)]
        lines += [line(STATISTICS, 10, seed, 1.05 * 2)]
    # pure noise: from 40 at 2.1 to 160 at 1
    share = math.log(2) / math.log(2.1)
    expected = 40 * 4**share / 20
    assert shortcut_runs.Kept(tuple(lines), {}).saved().mean == pytest.approx(expected)


def test_calls_beyond_the_numbers_tried_count_as_the_last_or_the_first() -> None:
    assert shortcut_runs.calls_to((5, 10), (4.0, 3.0), 2.0) == 10
    assert shortcut_runs.calls_to((5, 10), (4.0, 3.0), 5.0) == 5


def test_every_piece_is_measured_into_a_file_of_its_own(tmp_path: Path) -> None:
    pieces = list(shortcut_runs.pieces())
    assert len({tmp_path / piece.file for piece in pieces}) == len(pieces)


def test_a_piece_has_a_line_for_each_number_of_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    two = system(Counting())
    monkeypatch.setattr(Plan, "system", lambda plan, space: two)
    monkeypatch.setattr(shortcut_runs, "balanced", lambda n: torch.arange(n) % 2)
    piece = shortcut_runs.Piece(STATISTICS, 1.0, (2, 9), 3)
    found = shortcut_runs.measure(piece, replace(FASHION, most=500))
    assert [row["calls"] for row in found] == [2, 9]
    assert found[0]["logsnr"] == pytest.approx(shortcut.speciation_level(two) + 1, abs=1e-4)
    # Gaussian data and the exact denoiser: more calls come closer
    assert found[1]["fd"] < found[0]["fd"]


def test_starts_lie_where_the_schedule_has_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    late = replace(system(Counting()), schedule=StableDiffusion())
    first = float(late.schedule.logsnr(1.0))
    monkeypatch.setattr(shortcut, "speciation_level", lambda _: first - 3)
    assert shortcut.start_level(late) == pytest.approx(first + 1)
    monkeypatch.setattr(Plan, "system", lambda plan, space: late)
    assert shortcut_runs.measure(shortcut_runs.Piece(STATISTICS, -2.0, (2,), 0)) == []
    monkeypatch.setattr(shortcut, "speciation_level", lambda _: first + 3)
    assert shortcut.start_level(late) == pytest.approx(first + 3)
