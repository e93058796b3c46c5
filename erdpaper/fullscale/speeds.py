"""Speeds that were measured: the peaks of known devices, and the file that keeps a measurement.

A GPU's file is data/results/gpu/throughput.json, that of a CPU lies with chapter 8's results. Both
have one entry a preset, so that measuring another leaves the first as it is.
"""

import json
from pathlib import Path
from typing import Any

from erdpaper.datasets import DatasetError
from erdpaper.files import write_atomically

# TFLOP/s of dense products in half precision, by a part of the device's name, the longer name first
PEAKS = {
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.0,
    "H200 NVL": 835.0,
    "H200": 989.0,
    "A100": 312.0,
    "L40S": 362.0,
}
_KEYS = ("images_per_s", "flop_per_s", "peak_share")


def peak(device: str) -> float | None:
    """FLOP/s of a device in half precision without sparsity, by its makers; None if not listed."""
    found = [value for part, value in PEAKS.items() if part in device]
    return found[0] * 1e12 if found else None


def path(data_dir: Path, gpu: bool) -> Path:
    """Where measurements of one kind of device are kept."""
    return data_dir / "results" / ("gpu" if gpu else "08_full_scale") / "throughput.json"


def load(file: Path) -> dict[str, dict[str, Any]]:
    """Preset -> what was measured; nothing where there is no file.

    Raises DatasetError for a file that holds something else.
    """
    if not file.exists():
        return {}
    try:
        kept: dict[str, dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
        for entry in kept.values():
            _ = [entry["training"][key] for key in _KEYS], entry["device"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DatasetError(
            f"{file} holds no speeds that `erdpaper throughput` measured ({error!r})"
        ) from None
    return kept


def keep(file: Path, preset: str, entry: dict[str, Any]) -> None:
    """Add a preset to a file, or replace it; the file is made if there is none."""
    kept = load(file) | {preset: entry}
    write_atomically(file, json.dumps(kept, indent=1) + "\n")


def line(preset: str, entry: dict[str, Any]) -> str:
    """A measurement in one line."""
    training, share = entry["training"], entry["training"]["peak_share"]
    said = [
        f"{training['images_per_s']:.3g} images/s trained",
        f"{training['flop_per_s'] / 1e12:.3g} TFLOP/s"
        + ("" if share is None else f" ({share:.0%} of the peak)"),
    ]
    if "sampling" in entry:
        rate = entry["sampling"]["images_per_s"]
        said.append(f"{rate:.3g} images/s sampled in {entry['heun']} Heun steps")
    if "encoding" in entry:
        said.append(f"{entry['encoding']['images_per_s']:.3g} images/s encoded")
    where = f"batch {entry['batch']}, {entry['device']}"
    if "core_share" in entry:
        where += f", of which it had {entry['core_share']:.0%}"
    if entry.get("encoder"):
        where += f", autoencoder {entry['encoder']}"
    return f"{preset}: {', '.join(said)}; {where}"
