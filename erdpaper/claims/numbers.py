"""Numbers of the records: how they are stored, and how they are shown.

A record keeps six significant digits, and 0 for what is below the claim's noise, so that its file
is the same from another CPU.  A page shows three digits, more only where three would fall on the
other side of the threshold, and "< noise" for the 0.
"""

import math
from collections.abc import Mapping
from typing import SupportsFloat

from erdpaper.claims.entries import Claim, ClaimError

Number = int | float
TINY = 1e-9
STORED_DIGITS = 6


def stored(name: str, value: object) -> Number:
    """A finite number as the record keeps it: an int as it is, a float to six significant digits.

    value: a number, a 0-d tensor or array, or a numpy scalar.  Raises ClaimError otherwise.
    """
    plain = value.item() if hasattr(value, "item") and getattr(value, "shape", ()) == () else value
    if isinstance(plain, bool) or not isinstance(plain, SupportsFloat) or hasattr(plain, "shape"):
        raise ClaimError(f"{name}: a value must be a single number, not {type(value).__name__}")
    number = plain if isinstance(plain, int) else float(plain)
    if not math.isfinite(number):
        raise ClaimError(f"{name}: a value must be finite, not {number}")
    return number if isinstance(number, int) else float(f"{number:.{STORED_DIGITS}g}")


def measured(claim: Claim, values: object) -> dict[str, Number]:
    """The values of every case as the record keeps them, in the order of claims.yml.

    values: a mapping case -> number with exactly the listed cases, or a number if there is one.
    """
    kept = _by_case(claim, values, "values")
    return {case: 0.0 if is_noise(claim, value) else value for case, value in kept.items()}


def spreads(claim: Claim, values: object) -> dict[str, Number] | None:
    """The spread of every case as the record keeps it, None for None; ClaimError if one is < 0."""
    if values is None:
        return None
    kept = _by_case(claim, values, "spreads")
    if min(kept.values()) < 0:
        raise ClaimError(f"claim {claim.id!r}: a spread cannot be negative")
    # a spread is on no side of the threshold
    return {
        case: 0.0 if isinstance(value, float) and value < noise(claim) else value
        for case, value in kept.items()
    }


def _by_case(claim: Claim, values: object, what: str) -> dict[str, Number]:
    name = f"claim {claim.id!r}"
    if not isinstance(values, Mapping):
        if len(claim.cases) > 1:
            raise ClaimError(
                f"{name} has {len(claim.cases)} cases, so its {what} must be a mapping"
            )
        return {claim.cases[0]: stored(name, values)}
    missing = [case for case in claim.cases if case not in values]
    unknown = [str(case) for case in values if case not in claim.cases]
    if missing or unknown:
        parts = [f"lack {', '.join(missing)}"] if missing else []
        parts += [f"have the unknown {', '.join(unknown)}"] if unknown else []
        raise ClaimError(f"{name}: the {what} {' and '.join(parts)}")
    return {case: stored(f"{name}, case {case!r}", values[case]) for case in claim.cases}


def margin(claim: Claim, value: Number) -> float:
    """How far a value is on the good side of the threshold; negative if it fails."""
    if isinstance(claim.threshold, tuple):
        return min(value - claim.threshold[0], claim.threshold[1] - value)
    if claim.comparator == "at_least":
        return value - claim.threshold
    return claim.threshold - value


def noise(claim: Claim) -> float:
    """The magnitude below which a value is not shown: the claim's own, else at most 1e-9.

    A threshold finer than 1e-9 lowers it, so that the text still says what was required.
    """
    if claim.noise is not None:
        return claim.noise
    ends = claim.threshold if isinstance(claim.threshold, tuple) else (claim.threshold,)
    return min([TINY, *(abs(end) for end in ends if end)])


def is_noise(claim: Claim, value: Number) -> bool:
    """Whether a float is below the claim's noise and 0 is on the same side of the threshold."""
    same_side = (margin(claim, 0.0) >= 0) == (margin(claim, value) >= 0)
    return isinstance(value, float) and abs(value) < noise(claim) and same_side


def shown(claim: Claim, value: Number) -> tuple[Number, str]:
    """The rounded number that a page shows for a value, on the same side of the threshold.

    Returns the number and its text, such as "0.0123", "1230", "4.5e-7" or "< 1e-9".
    """
    if isinstance(value, int):
        return value, str(value)
    if is_noise(claim, value):
        return 0.0, f"< {plain(noise(claim))}"
    passed = margin(claim, value) >= 0
    near = (float(f"{value:.{digits}g}") for digits in range(3, STORED_DIGITS))
    agreeing = (number for number in near if (margin(claim, number) >= 0) == passed)
    number = next(filter(math.isfinite, agreeing), value)
    return number, plain(number)


def shown_with_spread(claim: Claim, value: Number, spread: Number | None) -> str:
    """A value and its spread, as in "0.12 ± 0.01"."""
    text = shown(claim, value)[1]
    if spread is None:
        return text
    if spread < noise(claim):
        return f"{text} ± < {plain(noise(claim))}"
    centre = "0" if text.startswith("<") else text
    return f"{centre} ± {plain(float(f'{spread:.3g}'))}"


def plain(value: float) -> str:
    """A number in full between 1e-4 and 1e6 in magnitude, else with a short exponent."""
    if value == 0 or 1e-4 <= abs(value) < 1e6:
        return f"{value:.10f}".rstrip("0").rstrip(".")
    mantissa, exponent = f"{value:.5e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def criterion(claim: Claim) -> str:
    """The claim's test in words, as in "at most 0.01"."""
    if isinstance(claim.threshold, tuple):
        return f"between {plain(claim.threshold[0])} and {plain(claim.threshold[1])}"
    return f"{claim.comparator.replace('_', ' ')} {plain(claim.threshold)}"
