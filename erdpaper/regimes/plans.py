"""What is measured of a model: in which spaces, of which classes, and of how many samples at most.

That of Fashion-MNIST is written down here. For another model near and far classes are found in its
data (`made`), and the plan is kept beside what was measured by it, so that it is read by the same
names. Results of Fashion-MNIST lie in data/results, those of another model in a folder there that
bears its name.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import torch

from erdpaper import datasets
from erdpaper.files import write_atomically
from erdpaper.regimes.system import SPACES, System, open_system

OWN_MODEL = "fashion"
MODELS = (OWN_MODEL, "cifar10", "stable-diffusion")
# a class and the one it is compared with, by name up to a slash
Names = tuple[str, str]
_FILE = "plan.json"
# pairs of each kind, and classes whose components are counted
_PAIRS, _COUNTED = 3, 3
# birds, as in Figure 3.5 of the thesis
_FIRST_COUNTED = {"cifar10": 2}
# the upper end of the thesis' scales for Stable Diffusion [T 3.2]; the others are sampled plainly
_GUIDANCE = {"stable-diffusion": 7.5}
# fewer samples than these cannot be divided into classes, or into fifths
FEWEST = 20


@dataclass(frozen=True)
class Plan:
    """near, far, steered: pairs of classes; of those that are steered near ones come first.

    counted: labels of the classes whose components are counted, the first of them drawn.
    guidance: the scale of runs that are not about guidance. most: a limit to every number of
    samples and of images, None for none.
    """

    model: str
    spaces: tuple[str, ...]
    classes: tuple[str, ...]
    near: tuple[Names, ...]
    far: tuple[Names, ...]
    steered: tuple[Names, ...]
    counted: tuple[int, ...]
    guidance: float = 1.0
    most: int | None = None

    @property
    def command(self) -> str:
        """What measures by this plan."""
        model = "" if self.model == OWN_MODEL else f" --model {self.model}"
        return f"erdpaper regimes{model}" + (f" --samples {self.most}" if self.most else "")

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
)


def made(model: str, most: int | None = None) -> Plan:
    """The plan of another model than fashion, from its data; opens the model.

    Near and far pairs are those whose class means of training states are closest and farthest, up
    to three of each. ValueError for fewer than three classes, or a model without the denoiser for
    no class.
    """
    system = open_system(model, SPACES[0])
    if len(system.classes) < 3:
        raise ValueError(f"near and far pairs need three classes or more, not {system.classes}")
    system.denoiser(None, 1.0)
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
        guidance=_GUIDANCE.get(model, 1.0),
        most=most,
    )


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


def keep(plan: Plan, folder: Path) -> None:
    """Write the plan beside what is measured by it.

    ValueError if the folder holds measurements by another one.
    """
    path = folder / _FILE
    if path.exists() and read(folder) != plan:
        raise ValueError(
            f"{folder} holds measurements of other samples or classes; remove it to begin anew"
        )
    write_atomically(path, json.dumps(asdict(plan), indent=1, ensure_ascii=False) + "\n")


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
    """The plan by which a model's results were measured; None if there are none."""
    if model == OWN_MODEL:
        return FASHION
    folder = results() / model
    return read(folder) if (folder / _FILE).exists() else None


def ordered(pairs: tuple[Names, ...]) -> Iterator[Names]:
    """Each pair in both orders."""
    for a, b in pairs:
        yield from ((a, b), (b, a))
