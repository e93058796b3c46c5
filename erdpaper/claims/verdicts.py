"""From the values of a claim to its verdict, and the verdict as text and as HTML."""

import re
from dataclasses import dataclass
from html import escape

from erdpaper.claims.entries import Claim
from erdpaper.claims.numbers import Number, criterion, margin, shown, shown_with_spread

HOLDS = "holds"
IN_PART = "holds in part"
FAILS = "does not hold"
NOT_RUN = "not run here"

# a symbol of its own for each verdict: never colour alone
SYMBOLS = {HOLDS: "✓", IN_PART: "◐", FAILS: "✗", NOT_RUN: "○"}
CLASSES = {
    HOLDS: "claim-holds",
    IN_PART: "claim-in-part",
    FAILS: "claim-fails",
    NOT_RUN: "claim-not-run",
}
_SHOWN_IN_FULL = 4


@dataclass(frozen=True)
class Verdict:
    """What a run says about a claim.  values and spread: by case, six significant digits."""

    claim: Claim
    values: dict[str, Number]
    spread: dict[str, Number] | None = None

    @property
    def passed(self) -> dict[str, bool]:
        """Case -> whether its value meets the claim's threshold."""
        return {case: margin(self.claim, value) >= 0 for case, value in self.values.items()}

    @property
    def name(self) -> str:
        """`holds` if all cases pass, `does not hold` if none does, else `holds in part`."""
        results = self.passed.values()
        if all(results):
            return HOLDS
        return IN_PART if any(results) else FAILS

    @property
    def worst(self) -> str:
        """The case with the smallest margin; the first listed of those that look the same."""
        # compared as shown, so that noise below the shown digits cannot change the answer
        return min(
            self.values,
            key=lambda case: margin(self.claim, shown(self.claim, self.values[case])[0]),
        )

    def measured(self, case: str) -> str:
        """The value of a case with its spread, rounded for display."""
        spread = self.spread[case] if self.spread else None
        return shown_with_spread(self.claim, self.values[case], spread)

    def summary(self) -> str:
        """All values if they are few, else how many cases pass, the worst one and what fails."""
        cases = list(self.values)
        if len(cases) == 1:
            return self.measured(cases[0])
        if len(cases) <= _SHOWN_IN_FULL:
            return ", ".join(f"{case}: {self.measured(case)}" for case in cases)
        failing = [case for case, passed in self.passed.items() if not passed]
        text = f"{len(cases) - len(failing)} of {len(cases)} cases pass"
        text += f"; worst: {self.worst}: {self.measured(self.worst)}"
        if 0 < len(failing) < len(cases):
            text += f"; failing: {'; '.join(failing)}"
        return text

    def __repr__(self) -> str:
        """Verdict and number, statement, note if any, measured values and criterion, by line."""
        head = f"{SYMBOLS[self.name]} {self.name} ({self.claim.source})"
        note = [self.claim.note] if self.claim.note else []
        return "\n".join([head, self.claim.statement, *note, self._measured_line()])

    def _repr_html_(self) -> str:
        """The same as a block whose id the ledger links to."""
        note = self.claim.note
        return (
            f'<div class="claim {CLASSES[self.name]}" id="{self.claim.anchor}">'
            f'<p class="claim-head">{badge(self.name)} '
            f'<span class="claim-source">{escape(self.claim.source)}</span></p>'
            f'<p class="claim-statement">{_with_math(self.claim.statement)}</p>'
            + (f'<p class="claim-note">{_with_math(note)}</p>' if note else "")
            + f'<p class="claim-measured">{_with_math(self._measured_line())}</p></div>'
        )

    def _measured_line(self) -> str:
        measure = f"{self.claim.measure}: " if self.claim.measure else "measured: "
        return f"{measure}{self.summary()} (required: {criterion(self.claim)})"


def badge(verdict: str) -> str:
    """A verdict as an HTML badge: symbol and words."""
    label = f'<span aria-hidden="true">{SYMBOLS[verdict]}</span> {verdict}'
    return f'<span class="claim-badge {CLASSES[verdict]}">{label}</span>'


def _with_math(text: str) -> str:
    r"""Escape a text for HTML, its $...$ parts as \(...\) for MathJax."""
    parts = re.split(r"\$([^$]+)\$", text)
    for index, part in enumerate(parts):
        parts[index] = escape(part)
        if index % 2:
            math = rf"\({escape(part)}\)"
            parts[index] = f'<span class="math notranslate nohighlight">{math}</span>'
    return "".join(parts)
