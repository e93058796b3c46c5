"""What the paper's printed tables decide by themselves: ratios, counts and contradictions.

Every function returns values by the cases of a claim of chapter 8. Nothing here was measured.
"""

import math
from collections.abc import Iterable

from erdpaper.comparisons import steps_to
from erdpaper.fullscale.tables import published
from erdpaper.fullscale.tables.published import IMAGENET, METRICS, Row, one, select

END = "400K"
RUNGS = {
    # numbers of rows in Table 1: (the rung, the one below)
    "ERD on the baseline": (1, 0),
    "beta2 = .95 on the baseline": (3, 2),
    "cosine learning rate on that": (4, 3),
    "ERD on that": (5, 4),
}
_OURS = ("Ours", "+ Ours")
_GUIDED = ("Ours", "Ours*")
# as Table 3 prints it, or the scan leaves it, and as Tables 6 and 7 call the same row
_NAMES = {"SiT-XL": "SiT-XL/2", "Min-SNR": "U-ViT-H/2 with Min-SNR"}


def baselines(number: int) -> dict[str, tuple[Row, Row]]:
    """Name of each baseline of Table 3, 6 or 7 -> (ERD's row at 400K steps, the baseline's)."""
    found = {}
    for row in published.table(number):
        if row["model"] not in _OURS:
            ours = next(r for r in select(number, group=row["group"], iter=END) if _ours(r))
            found[_NAMES.get(row["model"], row["model"] or row["group"])] = (ours, row)
    return found


def fid_ratios() -> dict[str, float]:
    """FID of ERD over the baseline's, Table 3."""
    return {name: ours.value("fid") / row.value("fid") for name, (ours, row) in _third().items()}


def as_good() -> dict[str, float]:
    """Metric -> share of the baselines with printed values that ERD equals or beats, Tables 6-7."""
    found = {}
    for column, name in zip(METRICS[1:], ("sFID", "IS", "precision", "recall"), strict=True):
        rows = [pair for pair in _along().values() if pair[1].number(column) is not None]
        sign = -1 if column == "sfid" else 1
        good = [sign * (ours.value(column) - row.value(column)) >= 0 for ours, row in rows]
        found[name] = sum(good) / len(good)
    return found


def steps_needed() -> dict[str, float]:
    """Steps after which ERD has the baseline's last FID, over 400K; inf if it never has."""
    found = {}
    for name, (_, row) in _along().items():
        number = 6 if row["group"].startswith("DiT") else 7
        curve = [r for r in select(number, group=row["group"]) if _ours(r)]
        steps, fids = ([r.value(column) for r in curve] for column in ("iter", "fid"))
        needed = steps_to(row.value("fid"), steps, fids)
        found[name] = math.inf if needed is None else needed / steps[-1]
    return found


def rungs() -> dict[str, float]:
    """FID of each rung of Table 1 over that of the rung below."""
    fid = [row.value("fid") for row in published.table(1)]
    return {name: fid[up] / fid[down] for name, (up, down) in RUNGS.items()}


def weight_share() -> float:
    """Share of the longer ladder's gain, in logarithms, that is ERD's rung."""
    fid = [row.value("fid") for row in published.table(1)]
    return math.log(fid[5] / fid[4]) / math.log(fid[5] / fid[2])


def celeba() -> dict[str, float]:
    """FID of ERD over the other's, Table 2."""
    fid = {row["method"]: row.value("fid") for row in published.table(2)}
    unet, dit = fid["UNet (Ours)"], fid["DiT-S (Ours)"]
    return {
        "U-Net over DDIM": unet / fid["DDIM"],
        "U-Net over Soft Truncation": unet / fid["Soft Truncation"],
        "DiT-S over U-ViT-S": dit / fid["U-ViT-S"],
        "DiT-S over itself without ERD": dit / fid["DiT-S"],
    }


def celeba_controls() -> dict[str, int]:
    """Rows without ERD of the same kind and size as ERD's, Table 2."""
    found = {}
    for kind, name in (("U-Net", "UNet (Ours)"), ("DiT", "DiT-S (Ours)")):
        ours = one(2, method=name)
        same = select(2, part=ours["part"], params=ours["params"])
        found[kind] = sum("(Ours)" not in row["method"] for row in same)
    return found


def gaps() -> dict[str, float]:
    """ERD's FID less REPA's, over the same of another system with as much guidance, Table 4."""
    fid = {row["model"]: float(row.number("fid") or math.nan) for row in published.table(4)}
    goal = fid["REPA*"]
    pairs = {
        "LDM-4, plain guidance": ("Ours", "LDM-4"),
        "U-ViT-H/2, plain guidance": ("Ours", "U-ViT-H/2"),
        "Min-SNR, scheduled guidance": ("Ours*", "Min-SNR*"),
        "MDTv2-XL/2, scheduled guidance": ("Ours*", "MDTv2-XL/2*"),
    }
    return {case: (fid[a] - goal) / (fid[b] - goal) for case, (a, b) in pairs.items()}


def budgets() -> dict[str, float]:
    """Epochs of ERD over those of each latent system that gives its own, Table 4."""
    ours = one(4, model="Ours").value("epochs")
    rows = [row for row in published.table(4) if row["part"] != "pixel"]
    given = [r for r in rows if r.number("epochs") is not None and r["model"] not in _GUIDED]
    return {row["model"].rstrip("*"): ours / row.value("epochs") for row in given}


def inside() -> dict[str, int]:
    """Values between the best of a guidance sweep and its nearer end, that end included."""
    sweeps = {
        "scale, everywhere": select(8, model="Ours"),
        "scale, on [0, 0.8]": select(9, interval="[0,0.8]"),
        "end of the interval, scale 2.1": select(9, w="2.10"),
    }
    found = {}
    for case, rows in sweeps.items():
        fid = [row.value("fid") for row in rows]
        best = fid.index(min(fid))
        found[case] = min(best, len(fid) - 1 - best)
    return found


def stated_guidance() -> dict[str, float]:
    """Metric -> relative difference of Table 4 from Table 8 at the scale of Table 5."""
    scale = one(5, related_table="4").value("guidance_scale")
    there = next(row for row in select(8, model="Ours") if row.value("w") == scale)
    here = one(4, model="Ours")
    names = ("FID", "sFID", "IS", "precision", "recall")
    return {
        name: abs(there.value(column) / here.value(column) - 1)
        for name, column in zip(names, METRICS, strict=True)
    }


def contradictions() -> dict[str, list[str]]:
    """Pairs of tables -> the cells that both print and that differ by more than rounding."""
    third, along = _third(), _along()
    at_scale = {row["model"]: row for row in select(8, w="1.500")}
    fourth = [(one(4, model=name), row) for name, row in at_scale.items()]
    best = one(9, interval="[0,0.8]", w="2.10")
    return {
        "Tables 3 and 6": _compared(third, along, "DiT"),
        "Tables 3 and 7": _compared(third, along, "U-ViT"),
        "Tables 4 and 8": published.disagreements(fourth, METRICS),
        "Tables 4 and 9": published.disagreements([(one(4, model="Ours*"), best)], METRICS),
    }


def epochs_over_steps() -> dict[str, float]:
    """Epochs of Table 4 in steps of Table 5's batch, over the iterations of Table 8."""
    batch = one(5, related_table="4").value("batch")
    found = {}
    for name, case in (("Ours", "ERD, 800 epochs"), ("U-ViT-H/2", "U-ViT-H/2, 400 epochs")):
        steps = one(4, model=name).value("epochs") * IMAGENET / batch
        found[case] = steps / one(8, model=name, w="1.500").value("iter")
    return found


def _ours(row: Row) -> bool:
    return row["model"] in _OURS


def _third() -> dict[str, tuple[Row, Row]]:
    return baselines(3)


def _along() -> dict[str, tuple[Row, Row]]:
    return baselines(6) | baselines(7)


def _compared(
    first: dict[str, tuple[Row, Row]], second: dict[str, tuple[Row, Row]], group: str
) -> list[str]:
    names = [name for name in first if first[name][0]["group"].startswith(group)]
    pairs: Iterable[tuple[Row, Row]] = (
        pair for name in names for pair in zip(first[name], second[name], strict=True)
    )
    return published.disagreements(list(pairs), ("params", "fid"))
