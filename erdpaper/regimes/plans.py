"""What is measured of a model: in which spaces, of which classes, and of how many samples at most.

That of Fashion-MNIST is written down here. For another model near and far classes are found in its
data (`made`), and the plan is kept beside what was measured by it: results are read by the same
names, and those of another network are never taken for the model's own. Results of Fashion-MNIST
lie in data/results, those of another model in a folder there that bears its name.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import torch

from erdpaper import datasets
from erdpaper.datasets import OWN_MODEL
from erdpaper.files import write_atomically
from erdpaper.regimes.system import SPACES, System, open_system

# a class and the one it is compared with, by name up to a slash
Names = tuple[str, str]
_FILE = "plan.json"
# pairs of each kind, and classes whose components are counted
_PAIRS, _COUNTED = 3, 3
# birds, as in Figure 3.5 of the thesis
_FIRST_COUNTED = {"cifar10": 2}
# the upper end of the thesis' scales for Stable Diffusion [T 3.2]; the others are sampled plainly
_GUIDANCE = {"stable-diffusion": 7.5}
# samples where none are asked for: a piece holds images of 512 x 512 pixels of some thirty levels
_SAMPLES = {"stable-diffusion": 50}
# images of a class: principal directions want one more than themselves, clones of test images two
_TRAIN, _TEST = 21, 2


class PlanError(ValueError):
    """A model that cannot be measured, or results that are of another plan; one sentence."""


@dataclass(frozen=True)
class Plan:
    """near, far, steered: pairs of classes; of those that are steered near ones come first.

    counted: labels of the classes whose components are counted, the first of them drawn.
    guidance: the scale of injection and steering where they are not about guidance; all else is
    sampled at 1. most: a limit to numbers of samples and of images that are shown to a denoiser,
    None for none. images: how many of a class there are at least, for estimating and for testing.
    origin: which model it is, see `opened.origin`.
    """

    model: str
    spaces: tuple[str, ...]
    classes: tuple[str, ...]
    near: tuple[Names, ...]
    far: tuple[Names, ...]
    steered: tuple[Names, ...]
    counted: tuple[int, ...]
    images: tuple[int, int]
    guidance: float = 1.0
    most: int | None = None
    origin: tuple[tuple[str, str], ...] = ()

    @property
    def command(self) -> str:
        """What measures by this plan."""
        model = "" if self.model == OWN_MODEL else f" --model {self.model}"
        samples = "" if self.most == _SAMPLES.get(self.model) else f" --samples {self.most}"
        return f"erdpaper regimes{model}{samples}"

    @property
    def network(self) -> str:
        """The name of the model's own network among others."""
        return "v-network" if self.model == OWN_MODEL else "network"

    @property
    def device(self) -> str | None:
        """The name of the GPU that the model runs on, if any; small networks use the CPU."""
        on_gpu = self.model != OWN_MODEL and torch.cuda.is_available()
        return torch.cuda.get_device_name() if on_gpu else None

    def size(self, wanted: int) -> int:
        """So many samples, or as many as the plan allows."""
        return wanted if self.most is None else min(wanted, self.most)

    def system(self, space: str) -> System:
        """The model and its data."""
        return open_system(self.model, space)

    def label(self, name: str) -> int:
        """The number of a class."""
        return self.classes.index(name)

    def within(self, folder: Path) -> Path:
        """The part of a folder of results, or of work, that is of this model."""
        return folder if self.model == OWN_MODEL else folder / self.model

    def kept(self, name: str) -> Path:
        """The folder of a part's results."""
        return self.within(results()) / name


FASHION = Plan(
    model=OWN_MODEL,
    spaces=SPACES,
    classes=tuple(name.split("/")[0] for name in datasets.FASHION_CLASSES),
    # class means of latents less than 8.5 apart, and more than 13
    near=(("Pullover", "Coat"), ("Sandal", "Sneaker"), ("Trouser", "Dress")),
    far=(("Trouser", "Ankle boot"), ("T-shirt", "Sneaker"), ("Trouser", "Bag")),
    steered=(
        ("Pullover", "Coat"),
        ("Sneaker", "Sandal"),
        ("Trouser", "Bag"),
        ("Ankle boot", "T-shirt"),
    ),
    # bags, sandals and pullovers: the least alike of the classes first
    counted=(8, 5, 2),
    images=(6_000, 1_000),
)


def made(model: str, most: int | None = None) -> Plan:
    """The plan of another model than fashion, from its data; opens the model.

    Near and far pairs are those whose class means of training states are closest and farthest, up
    to three of each. PlanError for fewer than three classes, for too few images of one, or for a
    model without the denoiser for no class.
    """
    system = open_system(model, SPACES[0])
    if len(system.classes) < 3:
        raise PlanError(f"near and far pairs need three classes or more, not {system.classes}")
    try:
        system.denoiser(None, 1.0)
    except ValueError as error:
        raise PlanError(str(error)) from error
    images = _images(system)
    near, far = _pairs(system)
    first = _FIRST_COUNTED.get(model)
    labels = [system.classes.index(name) for pair in (*far, *near) for name in pair]
    counted = dict.fromkeys(([] if first is None else [first]) + labels)
    return Plan(
        model=model,
        spaces=_spaces(model),
        classes=system.classes,
        near=near,
        far=far,
        steered=(*near[:2], *far[-2:][::-1]),
        counted=tuple(counted)[:_COUNTED],
        images=images,
        guidance=_GUIDANCE.get(model, 1.0),
        most=most or _SAMPLES.get(model),
        origin=_origin(model),
    )


def _images(system: System) -> tuple[int, int]:
    """How many states of a class there are at least, of both splits; PlanError if too few."""
    found = []
    for split, least in (("train", _TRAIN), ("test", _TEST)):
        labels = system.data(split, None)[1]
        counts = torch.bincount(labels, minlength=len(system.classes))
        k = int(counts.argmin())
        if counts[k] < least:
            raise PlanError(
                f"{system.classes[k]} has {counts[k]} images in the split {split}; at least "
                f"{least} of every class are needed"
            )
        found.append(int(counts[k]))
    return found[0], found[1]


def _origin(model: str) -> tuple[tuple[str, str], ...]:
    # imported here, as in `system.open_system`
    from erdpaper.regimes import opened

    return opened.origin(model)


def unmeasured(model: str) -> Plan:
    """The plan of a model that nothing is kept of: pairs of its first and of its last classes."""
    names = open_system(model, SPACES[-1]).classes
    first, last = (names[0], names[1]), (names[-2], names[-1])
    return Plan(
        model=model,
        spaces=_spaces(model),
        classes=names,
        near=(first,),
        far=(last,),
        steered=(first, last),
        counted=(_FIRST_COUNTED.get(model, 0),),
        images=(0, 0),
        guidance=_GUIDANCE.get(model, 1.0),
    )


def _spaces(model: str) -> tuple[str, ...]:
    return ("pixels",) if model == "cifar10" else ("latents",)


def _pairs(system: System) -> tuple[tuple[Names, ...], tuple[Names, ...]]:
    """Near pairs, the nearest first, and far ones, the farthest last."""
    x, labels = system.data("train", None)
    x = x.flatten(1)
    means = torch.stack([x[labels == k].mean(0) for k in range(len(system.classes))])
    distances = torch.cdist(means.double(), means.double())
    found = sorted(combinations(range(len(means)), 2), key=lambda pair: float(distances[pair]))
    n = min(_PAIRS, len(found) // 2)
    names = [(system.classes[a], system.classes[b]) for a, b in found]
    return tuple(names[:n]), tuple(names[-n:])


def check(plan: Plan, folder: Path) -> None:
    """PlanError if a folder holds what was measured by another plan."""
    if (folder / _FILE).exists() and read(folder) != plan:
        raise PlanError(
            f"{folder} holds measurements by `{read(folder).command}`, not the same command or not "
            "of this network and these images; go on with those, or remove the folder to begin anew"
        )


def keep(plan: Plan, folder: Path) -> None:
    """Write the plan beside what is measured by it."""
    text = json.dumps(asdict(plan), indent=1, ensure_ascii=False)
    write_atomically(folder / _FILE, text + "\n")


def read(folder: Path) -> Plan:
    """The plan of a folder."""
    found: dict[str, Any] = json.loads((folder / _FILE).read_text())
    return Plan(**{name: _tuples(value) for name, value in found.items()})


def _tuples(value: Any) -> Any:
    return tuple(_tuples(part) for part in value) if isinstance(value, list) else value


def results() -> Path:
    """The folder of all results."""
    return datasets.data_dir() / "results"


def measured(model: str) -> Plan | None:
    """The plan by which results of the model at hand are kept; None if there are none.

    The plan is written last: without it results are not whole.
    """
    if model == OWN_MODEL:
        return FASHION
    folder = results() / model
    plan = read(folder) if (folder / _FILE).exists() else None
    return plan if plan is not None and plan.origin == _origin(model) else None


def of_another(model: str) -> bool:
    """Whether results are kept under a model's name that are not of the one at hand."""
    return (results() / model / _FILE).exists() and measured(model) is None


def ordered(pairs: tuple[Names, ...]) -> Iterator[Names]:
    """Each pair in both orders."""
    for a, b in pairs:
        yield from ((a, b), (b, a))
