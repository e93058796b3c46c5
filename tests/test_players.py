"""The players: numbers against the package's own, pages, and what their captions say."""

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_book
import torch
from browser import launched
from playwright.sync_api import Page

from erdpaper import datasets, schedules, targets
from erdpaper.players import DATA, gram, phase, trajectories
from erdpaper.players.sphinx_ext import as_json
from erdpaper.toys import SCHEDULES, Toy, networks
from erdpaper.toys.points import TIMES
from erdpaper.toys.spec import LAW

STATIC = Path(gram.__file__).with_name("static")
F64 = torch.float64
LEVELS = [-7.5, -3.0, -1.0, 0.0, 0.7, 2.5, 6.0, 8.0]
POINTS = [[0.0, 0.0], [0.3, -1.2], [2.1, 1.9], [-3.4, 0.2], [1e-3, 3.0]]


@pytest.fixture(scope="module")
def toy_script() -> Iterator[Page]:
    """A page without anything but the closed form of the players."""
    with launched() as browser:
        page = browser.new_page()
        page.add_script_tag(content=(STATIC / "toy.js").read_text(encoding="utf-8"))
        yield page


def ask(page: Page, expression: str, **values: object) -> Any:
    return page.evaluate(f"([v, law, betas]) => {expression}", [values, phase.law(), phase.betas()])


@pytest.mark.parametrize("name", SCHEDULES)
def test_script_finds_the_level_and_time_of_a_log_snr(toy_script: Page, name: str) -> None:
    path = SCHEDULES[name]
    call = "v.levels.map((l) => { const s = erdToy.schedules(betas)[v.name];"
    found = ask(toy_script, call + "return [...s.at(l), s.time(l)]; })", name=name, levels=LEVELS)
    level = torch.tensor(LEVELS, dtype=F64)
    alpha, sigma, time = torch.tensor(found, dtype=F64).T
    torch.testing.assert_close(path.logsnr(time), level, rtol=0, atol=1e-9)
    for ours, theirs in zip((alpha, sigma), path(time), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=0)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("target", [y.name for y in targets.ALL])
def test_script_has_the_posterior_mean_of_the_package(
    toy_script: Page, name: str, target: str
) -> None:
    call = "v.points.map((x) => erdToy.field(law, x, ...v.at, v.target))"
    x = torch.tensor(POINTS, dtype=F64)
    for level in LEVELS:
        at = [
            float(c) for c in SCHEDULES[name](SCHEDULES[name].time(torch.tensor(level, dtype=F64)))
        ]
        found = ask(toy_script, call, points=POINTS, at=at, target=target)
        mean = torch.tensor([one["y"] for one in found], dtype=F64)
        torch.testing.assert_close(mean, LAW.posterior_mean(x, *at, target), rtol=1e-9, atol=1e-11)
        density = torch.tensor([one["density"] for one in found], dtype=F64)
        expected = LAW.log_density(x, *at).exp()
        torch.testing.assert_close(density, expected, rtol=1e-9, atol=1e-300)


def test_script_has_the_probabilities_of_the_package(toy_script: Page) -> None:
    call = "v.points.map((x) => erdToy.posterior(law, x, ...v.at).shares)"
    for at in ([0.1, 0.99], [0.6, 0.8], [0.98, 0.2]):
        found = torch.tensor(ask(toy_script, call, points=POINTS, at=at), dtype=F64)
        expected = LAW.class_probabilities(torch.tensor(POINTS, dtype=F64), *at)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("path", ["linear", "vp"])
def test_script_splits_the_energy_as_the_package_does(toy_script: Page, path: Any) -> None:
    for level in (-8.0, -2.0, 1.0, 8.0):
        alpha, sigma = schedules.signal_and_noise(torch.tensor(level, dtype=F64), path)
        for target in ("x0", "eps", "v", "u"):
            at = [float(alpha), float(sigma)]
            found = ask(toy_script, "erdToy.energies(law, ...v.at, v.target)", at=at, target=target)
            energy = float(LAW.energy(alpha, sigma, target))
            assert found["energy"] == pytest.approx(energy, rel=1e-12)
            carried = float(LAW.recoverable_energy(alpha, sigma, target))
            assert found["recoverable"] == pytest.approx(carried, abs=2e-6 * energy)


def test_arrows_vanish_where_the_caption_says() -> None:
    def share(target: str, level: float, path: Any) -> float:
        at = schedules.signal_and_noise(torch.tensor(level, dtype=F64), path)
        return float(LAW.recoverable_energy(*at, target) / LAW.energy(*at, target))

    for path in ("linear", "vp"):
        assert share("x0", -8, path) < 0.01 < 0.9 < share("x0", 8, path)
        assert share("eps", 8, path) < 0.01 < 0.9 < share("eps", -8, path)
        assert max(share("v", level, path) for level in (-8, 8)) < 0.01 < share("v", 0, path)


def unpacked(text: str, count: int) -> np.ndarray:
    """A packed matrix, read back as the script does it, byte after byte."""
    values = iter(base64.b64decode(text))
    matrix = np.eye(count)
    for i in range(count):
        for j in range(i + 1, count):
            matrix[i, j] = matrix[j, i] = next(values) / 127.5 - 1
    assert next(values, None) is None
    return matrix


@pytest.mark.parametrize(("target", "schedule", "k"), [("eps", "VP", 1), ("u", "linear", 11)])
def test_gram_matrix_is_that_of_the_gradients(target: str, schedule: str, k: int) -> None:
    t, count = TIMES[k], 4 * gram.EACH
    network = networks.load(Toy(target, schedule)).double().requires_grad_(True)
    parameters = list(network.parameters())
    rows = []
    for x in gram.chosen(schedule, t):
        outputs = network(x[None], torch.tensor([t], dtype=F64))[0]
        parts = [torch.autograd.grad(o, parameters, retain_graph=True) for o in outputs]
        rows.append(torch.cat([g.flatten() for part in parts for g in part]))
    jacobians = torch.stack(rows)
    unit = jacobians / jacobians.norm(dim=1, keepdim=True)
    text = gram.data()["cells"][f"{target}, {schedule}"]["trained"]["matrices"][k]
    np.testing.assert_allclose(unpacked(text, count), (unit @ unit.T).numpy(), atol=0.5 / 127.5)


def test_matrix_of_the_input_is_sorted_by_cluster() -> None:
    count, k = 4 * gram.EACH, TIMES.index(0.02)
    cosines = unpacked(gram.data()["inputs"]["GVP"][k], count)
    blocks = cosines.reshape(4, gram.EACH, 4, gram.EACH)
    own = [blocks[c, :, c].min() for c in range(4)]
    # neighbours stand at a right angle, opposite clusters face away
    assert min(own) > 0.8 and max(blocks[c, :, 3 - c].max() for c in range(4)) < -0.8


def test_curves_are_means_of_the_kept_numbers() -> None:
    lines = (datasets.data_dir() / "results" / networks.NAME / "runs.jsonl").read_text()
    runs = [json.loads(line) for line in lines.splitlines()]
    wanted = {"target": "v", "schedule": "GVP", "time_scale": 1.0}
    own = [run for run in runs if wanted.items() <= run.items()]
    assert len(own) == 3
    cell = gram.data()["cells"]["v, GVP"]["untrained"]
    top = [np.mean([run["untrained"]["eigenvalues"][k][0] for run in own]) for k in range(13)]
    rank = [np.mean([run["untrained"]["rank"][k] for run in own]) for k in range(13)]
    np.testing.assert_allclose(cell["top"], top, rtol=1e-3)
    np.testing.assert_allclose(cell["rank"], rank, rtol=1e-3)


def test_training_raises_the_rank_and_breaks_the_uniformity_as_the_caption_says() -> None:
    for cell in gram.data()["cells"].values():
        assert np.less(cell["untrained"]["rank"], cell["trained"]["rank"]).all()
        assert np.less(cell["trained"]["between"], cell["untrained"]["between"]).all()


def walk_of(sampler: str) -> tuple[torch.Tensor, ...]:
    found = trajectories.data()
    walk = found["walks"][sampler]
    columns = (found["alpha"], found["sigma"], walk["x"], walk["x0hat"], walk["ends"])
    return tuple(torch.tensor(values, dtype=F64) for values in columns)


def test_deterministic_walk_keeps_the_predicted_noise() -> None:
    alpha, sigma, x, x0hat, _ = walk_of("deterministic")
    alpha, sigma = alpha[:, None, None], sigma[:, None, None]
    eps = (x - alpha * x0hat) / sigma
    steps = alpha[1:] * x0hat[:-1] + sigma[1:] * eps[:-1]
    # what the rounding to three digits leaves
    torch.testing.assert_close(x[1:], steps, rtol=0, atol=2e-3)


def test_ancestral_walk_adds_standard_normal_noise() -> None:
    a, s, x, x0hat, _ = walk_of("ancestral")
    a, s = a[:, None, None], s[:, None, None]
    # mean and variance of q(x_t' | x_t, x0), written with products of neighbours
    gain = a[:-1] / a[1:]
    variance = s[:-1] ** 2 - gain**2 * s[1:] ** 2
    mean = (gain * s[1:] ** 2 * x[:-1] + a[1:] * variance * x0hat[:-1]) / s[:-1] ** 2
    z = (x[1:] - mean) / (variance.sqrt() * s[1:] / s[:-1])
    z = z[:40]  # later steps are small beside the rounding
    n = z.numel()
    assert abs(float(z.mean())) < 4 / n**0.5
    assert abs(float(z.var()) - 1) < 4 * (2 / n) ** 0.5


def test_estimates_are_exact_and_starts_are_shared() -> None:
    alpha, sigma, x, x0hat, _ = walk_of("ancestral")
    for k in (0, 20, 47):
        mean = LAW.posterior_mean(x[k], float(alpha[k]), float(sigma[k]))
        torch.testing.assert_close(x0hat[k], mean, rtol=0, atol=0.02)
    assert torch.equal(x[0], walk_of("deterministic")[2][0])


def test_trajectories_do_what_their_caption_says() -> None:
    alpha, sigma, x, x0hat, ends = walk_of("deterministic")
    assert torch.equal(x[0].sign(), ends.sign())
    assert float(x0hat[0].norm(dim=-1).max()) < 0.5 < 2 < float(ends.norm(dim=-1).min())
    level = 2 * (alpha / sigma).log()
    own = ends.sign()
    for k in (level < -2).nonzero().flatten().tolist():
        shares = LAW.class_probabilities(x[k], float(alpha[k]), float(sigma[k]))
        modes = LAW.means[shares.argmax(-1)].sign()
        assert float(shares.max(-1).values[(modes == own).all(-1)].quantile(0.75)) < 0.9
    other = walk_of("ancestral")[-1]
    assert int((other.sign() == own).all(-1).sum()) < len(own) / 2


@pytest.mark.parametrize("name", DATA)
def test_data_are_small_and_the_same_every_time(name: str) -> None:
    text = as_json(name)
    assert len(text) < 200_000 and "<" not in text
    assert json.loads(text) == json.loads(json.dumps(DATA[name]()))


CONF = """
extensions = ["myst_nb", "erdpaper.players.sphinx_ext"]
html_theme = "basic"
"""
INDEX = "# Home\n\nSee [it](#player-phase).\n\n```{toctree}\nmoving\n```\n"
MOVING = '# Moving\n\n```{player} phase\n:alt: Four "clouds".\n\nThey *merge*.\n```\n'


def build(root: Path, page: str) -> tuple[int, str]:
    """Exit status and complaints of a build."""
    for name, text in {"conf.py": CONF, "index.md": INDEX, "moving.md": page}.items():
        (root / name).write_text(text, encoding="utf-8")
    done = small_book.build(root, root / "out")
    return done.returncode, done.stderr


def test_page_with_a_player_has_its_data_scripts_and_words(tmp_path: Path) -> None:
    status, said = build(tmp_path, MOVING)
    assert status == 0, said
    page, home = ((tmp_path / "out" / f"{n}.html").read_text() for n in ("moving", "index"))
    (data,) = re.findall(r'<script type="application/json">(.*?)</script>', page)
    assert json.loads(data)["law"] == phase.law()
    scripts = re.findall(r'src="_static/(\w+\.js)', page)
    assert scripts[-3:] == ["toy.js", "player.js", "phase.js"] and "gram.js" not in scripts
    assert "Four &quot;clouds&quot;. This figure is moved by a slider" in page
    assert "<em>merge</em>" in page and "players.css" in page
    assert 'href="moving.html#player-phase"' in home
    assert "player.js" not in home and "players.css" not in home


@pytest.mark.parametrize(
    ("page", "message"),
    [
        (MOVING.replace("phase", "faze"), "no player is called 'faze'; there are phase, gram"),
        (MOVING.replace(':alt: Four "clouds".\n', ""), "needs an alt text and a caption"),
    ],
)
def test_wrong_player_is_refused_in_a_sentence(tmp_path: Path, page: str, message: str) -> None:
    status, said = build(tmp_path, page)
    assert status != 0 and message in said
