"""What a lab has measured at full scale, read from its run folders, for the claims of chapter 8.

A folder of runs holds a run folder for each preset, under the preset's name, and in it what
`erdpaper evaluate --out` wrote: `evaluation.json`, and of guided samples `evaluation-guided.json`
and `evaluation-interval.json`. Snapshots along a training go by any other name, such as
`evaluation-at-50000.json`.
"""

import json
from pathlib import Path
from typing import Any

from erdpaper.datasets import DatasetError
from erdpaper.fullscale.evaluation.extractors import PROTOCOL
from erdpaper.fullscale.presets import PRESETS
from erdpaper.fullscale.tables.readings import RUNGS

SAMPLES = 50_000
# what a final report is called -> the guidance of its samples, scale and interval
_FINAL: dict[str, tuple[float, list[float] | None]] = {
    "evaluation": (1.0, None),
    "evaluation-guided": (1.5, None),
    "evaluation-interval": (2.1, [0.0, 0.8]),
}
_S2 = "imagenet-dit-s2"
# claim -> (preset, evaluation, published FID)
_PUBLISHED = {
    "08.run-dit-b": ("imagenet-dit-b2-erd", "evaluation", 32.3),
    "08.run-dit-l": ("imagenet-dit-l2-erd", "evaluation", 17.2),
    "08.run-dit-xl": ("imagenet-dit-xl2-erd", "evaluation", 15.0),
    "08.run-uvit-m": ("imagenet-uvit-m2-erd", "evaluation", 19.9),
    "08.run-uvit-l": ("imagenet-uvit-l2-erd", "evaluation", 15.0),
    "08.run-uvit-h": ("imagenet-uvit-h2-erd", "evaluation", 8.9),
    "08.run-guided": ("imagenet-uvit-h2-erd-long", "evaluation-guided", 1.89),
    "08.run-interval": ("imagenet-uvit-h2-erd-long", "evaluation-interval", 1.45),
}
# claim -> case -> (preset, the one it is compared with)
_COMPARED = {
    "08.run-ladder": dict(
        zip(
            RUNGS,
            (
                (f"{_S2}-erd", _S2),
                (f"{_S2}-beta", _S2),
                (f"{_S2}-decay", f"{_S2}-beta"),
                (f"{_S2}-decay-erd", f"{_S2}-decay"),
            ),
            strict=True,
        )
    ),
    "08.run-weights": {
        "eps, uniform": (f"{_S2}-cosine-erd", f"{_S2}-cosine"),
        "eps, Min-SNR": (f"{_S2}-cosine-erd", f"{_S2}-min-snr"),
        "eps, P2": (f"{_S2}-cosine-erd", f"{_S2}-p2"),
        "x0, uniform": (f"{_S2}-x0-erd", f"{_S2}-x0"),
        "x0, Min-SNR": (f"{_S2}-x0-erd", f"{_S2}-x0-min-snr"),
        "x0, P2": (f"{_S2}-x0-erd", f"{_S2}-x0-p2"),
        "v, uniform": (f"{_S2}-v-erd", f"{_S2}-v"),
        "v, Min-SNR": (f"{_S2}-v-erd", f"{_S2}-v-min-snr"),
        "v, P2": (f"{_S2}-v-erd", f"{_S2}-v-p2"),
    },
    "08.run-celeba": {
        "U-Net": ("celeba-unet-erd", "celeba-unet-uniform"),
        "DiT-S": ("celeba-dit-s-erd", "celeba-dit-s"),
    },
}

Fids = dict[tuple[str, str], float]


def read(runs: Path) -> Fids:
    """(preset, evaluation) -> FID, of every evaluation in a folder of runs.

    Raises DatasetError for a report that cannot be read, is of another preset or of another number
    of samples than 50,000, or is no FID in ADM's protocol.
    """
    if not runs.is_dir():
        raise DatasetError(f"{runs} is not a folder of runs")
    paths = [
        path for preset in PRESETS for path in sorted((runs / preset).glob("evaluation*.json"))
    ]
    return {(path.parent.name, path.stem): _fid(path) for path in paths}


def decided(fids: Fids) -> dict[str, dict[str, float]]:
    """Claim -> value by case, of the claims all of whose cases have been measured."""
    found: dict[str, dict[str, float]] = {}
    for claim, (preset, evaluation, published) in _PUBLISHED.items():
        if (preset, evaluation) in fids:
            found[claim] = {"ImageNet": fids[preset, evaluation] / published}
    plain = {
        preset: fid for (preset, evaluation), fid in fids.items() if evaluation == "evaluation"
    }
    for claim, cases in _COMPARED.items():
        if all(name in plain for pair in cases.values() for name in pair):
            found[claim] = {case: plain[a] / plain[b] for case, (a, b) in cases.items()}
    return found


def _fid(path: Path) -> float:
    try:
        report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        samples, protocol = report["samples"], report["protocol"]
        preset, number = samples["made"]["preset"], samples["images"]
        at = samples["made"].get("at")
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{path} is no report of erdpaper evaluate ({error})") from None
    if protocol != PROTOCOL:
        raise DatasetError(f"{path} is no FID: its features are those of {report['features']}")
    if preset != path.parent.name:
        raise DatasetError(f"{path} is about samples of {preset}, not of {path.parent.name}")
    if at is not None and path.stem in _FINAL:
        raise DatasetError(
            f"{path} is about a snapshot, of step {at:,}; name it evaluation-at-{at}.json"
        )
    guidance = (samples["made"].get("scale", 1.0), samples["made"].get("interval"))
    if path.stem in _FINAL and guidance != _FINAL[path.stem]:
        raise DatasetError(
            f"{path} is about samples at scale {guidance[0]} on {guidance[1] or 'all levels'}, "
            "not as its name says"
        )
    if number != SAMPLES:
        raise DatasetError(f"{path} is about {number:,} samples, and the paper's FIDs about 50,000")
    return float(report["values"]["FID"])
