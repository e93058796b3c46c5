"""Comparators, verdicts and numbers, and what a notebook shows of them."""

import json
import math

import numpy as np
import pytest
import torch
from claim_examples import claim, refusal
from hypothesis import assume, given
from hypothesis import strategies as st

from erdpaper.claims import Verdict, entries, numbers

FINITE = st.floats(allow_nan=False, allow_infinity=False)


@given(FINITE, FINITE)
def test_at_most_and_at_least_are_the_order_of_numbers(value: float, threshold: float) -> None:
    at_most = Verdict(claim(cases=["a"], threshold=threshold), {"a": value})
    at_least = Verdict(claim(cases=["a"], threshold=threshold, comparator="at_least"), {"a": value})
    assert at_most.passed == {"a": value <= threshold}
    assert at_least.passed == {"a": value >= threshold}


@given(FINITE, FINITE, FINITE)
def test_between_includes_its_ends(value: float, one: float, other: float) -> None:
    low, high = min(one, other), max(one, other)
    verdict = Verdict(claim(cases=["a"], threshold=[low, high], comparator="between"), {"a": value})
    assert verdict.passed == {"a": low <= value <= high}


@given(st.lists(FINITE, min_size=1, max_size=7), FINITE)
def test_verdict_counts_the_cases_that_pass(values: list[float], threshold: float) -> None:
    by_case = {f"c{index}": value for index, value in enumerate(values)}
    verdict = Verdict(claim(cases=list(by_case), threshold=threshold), by_case)
    passing = sum(value <= threshold for value in values)
    expected = {0: "does not hold", len(values): "holds"}.get(passing, "holds in part")
    assert verdict.name == expected


@given(st.lists(st.integers(-1000, 1000), min_size=1, max_size=9))
def test_worst_case_is_the_one_closest_to_failing(values: list[int]) -> None:
    by_case: dict[str, int | float] = {f"c{i}": value for i, value in enumerate(values)}
    cases = list(by_case)
    most = Verdict(claim(cases=cases, threshold=0), by_case)
    least = Verdict(claim(cases=cases, threshold=0, comparator="at_least"), by_case)
    inside = Verdict(claim(cases=cases, threshold=[-5, 9], comparator="between"), by_case)
    assert by_case[most.worst] == max(values)
    assert by_case[least.worst] == min(values)
    distance = [max(-5 - value, value - 9) for value in values]
    assert distance[cases.index(inside.worst)] == max(distance)


def test_noise_below_the_shown_digits_does_not_choose_the_worst_case() -> None:
    cases = ["a", "b", "c"]
    for noise in ([1e-13, 2e-12, 0.0], [2e-14, 0.0, 5e-10], [0.04999, 0.05, 0.050001]):
        assert Verdict(claim(cases=cases), dict(zip(cases, noise, strict=True))).worst == "a"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "< 1e-9"),
        (-3e-17, "< 1e-9"),
        (9.9e-10, "< 1e-9"),
        (1e-9, "1e-9"),
        (-0.00012345, "-0.000123"),
        (4.5678e-7, "4.57e-7"),
        (0.5, "0.5"),
        (0.99949, "0.999"),
        (0.99951, "1"),
        (12.345, "12.3"),
        (1234.5, "1230"),
        (999999.0, "1e6"),
        (123456.0, "123000"),
        (-6.02214e23, "-6.02e23"),
        (0, "0"),
        (60000, "60000"),
        (-12345, "-12345"),
    ],
)
def test_numbers_are_shown_with_three_digits(value: float, text: str) -> None:
    assert numbers.shown(claim(threshold=1e30), value)[1] == text


def test_numbers_with_spread() -> None:
    assert numbers.shown_with_spread(claim(), 0.12345, None) == "0.123"
    assert numbers.shown_with_spread(claim(), 0.12345, 0.00456) == "0.123 ± 0.00456"
    assert numbers.shown_with_spread(claim(), 1e-17, 0.01) == "0 ± 0.01"
    assert numbers.shown_with_spread(claim(), 1e-17, 1e-18) == "< 1e-9 ± < 1e-9"


@given(FINITE, FINITE, FINITE, st.sampled_from(entries.COMPARATORS))
def test_the_shown_number_is_on_the_side_of_the_measured_one(
    value: float, one: float, other: float, comparator: str
) -> None:
    assume(one != other)
    ends = [min(one, other), max(one, other)]
    made = claim(threshold=ends if comparator == "between" else one, comparator=comparator)
    kept = numbers.stored("x", value)
    number, text = numbers.shown(made, kept)
    assert (numbers.margin(made, number) >= 0) == (numbers.margin(made, kept) >= 0)
    assert text.startswith("< ") or math.isclose(float(text), kept, rel_tol=5.1e-3)


def test_more_digits_are_shown_where_three_would_cross_the_threshold() -> None:
    between = claim(cases=["a", "b"], comparator="between", threshold=[20286, 20296])
    # to three digits both are 20300, outside
    verdict = Verdict(between, {"a": 20291.3, "b": 20296.4})
    assert verdict.summary() == "a: 20290, b: 20300" and verdict.worst == "b"
    assert Verdict(claim(cases=["a"]), {"a": 0.10004}).summary() == "0.10004"


def test_noise_is_not_shown() -> None:
    fine, coarse = claim(cases=["a"], threshold=1e-12), claim(cases=["a"], noise=1e-5)
    assert Verdict(fine, {"a": 3e-14}).summary() == "< 1e-12"
    assert Verdict(fine, {"a": 3e-11}).summary() == "3e-11"
    assert Verdict(coarse, {"a": 1.19e-6}).summary() == "< 1e-5"
    # a failure is shown whatever the noise
    strict = claim(cases=["a"], threshold=1e-7, noise=1e-5)
    assert Verdict(strict, {"a": 1.19e-6}).summary() == "1.19e-6"


@given(st.sampled_from([1.0, 1e-3, 1e-7, 1e-300]), FINITE, st.sampled_from(entries.COMPARATORS))
def test_what_is_kept_has_no_noise_the_same_verdict_and_the_same_text(
    scale: float, threshold: float, comparator: str
) -> None:
    ends: object = [threshold, threshold + 1] if comparator == "between" else threshold
    made = claim(cases=["a"], threshold=ends, comparator=comparator)
    assume(comparator != "between" or threshold < threshold + 1)
    for value in (scale * 0.7, -scale * 0.3, numbers.noise(made) * 0.99, 0.0):
        plain = {"a": numbers.stored("x", value)}
        kept = numbers.measured(made, value)
        assert numbers.measured(made, kept) == kept
        assert Verdict(made, kept).passed == Verdict(made, plain).passed
        assert Verdict(made, kept).summary() == Verdict(made, plain).summary()
        # digits that are not shown are not kept
        assert (kept["a"] == 0) == Verdict(made, kept).summary().startswith("< ")


@given(FINITE)
def test_stored_numbers_have_six_digits_and_survive_storing(value: float) -> None:
    kept = numbers.stored("x", value)
    assert numbers.stored("x", kept) == kept == float(json.loads(json.dumps(kept)))
    assert math.isclose(kept, value, rel_tol=5.1e-6, abs_tol=5e-324)


@pytest.mark.parametrize(
    "value",
    [
        0.25,
        np.float32(0.25),
        np.float64(0.25),
        np.array(0.25),
        torch.tensor(0.25),
        torch.tensor(0.25, dtype=torch.float64, requires_grad=True),
    ],
)
def test_every_kind_of_single_number_is_stored(value: object) -> None:
    assert numbers.stored("x", value) == 0.25


@pytest.mark.parametrize("value", [7, np.int64(7), torch.tensor(7)])
def test_integers_stay_integers(value: object) -> None:
    assert numbers.stored("x", value) == 7 and isinstance(numbers.stored("x", value), int)


@pytest.mark.parametrize(
    "value",
    [*(True, "1", None, [1.0], torch.tensor([1.0]), np.ones(2), torch.tensor(True)), 1j, {"a": 1}],
)
def test_what_is_not_a_single_number_is_refused(value: object) -> None:
    assert "x: a value must be a single number" in refusal(lambda: numbers.stored("x", value))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, torch.tensor(math.nan)])
def test_what_is_not_finite_is_refused(value: object) -> None:
    assert "x: a value must be finite" in refusal(lambda: numbers.stored("x", value))


def test_verdict_as_text() -> None:
    verdict = Verdict(claim(cases=["all"], measure="gap, in nats"), {"all": 0.012345}, {"all": 0.1})
    assert repr(verdict) == (
        "✓ holds (Paper, Lemma 3.2, C.1)\n"
        "The floor bounds the loss: $l \\ge l^\\star$.\n"
        "gap, in nats: 0.0123 ± 0.1 (required: at most 0.1)"
    )


def test_few_cases_are_shown_in_full_and_many_by_the_worst() -> None:
    few = Verdict(claim(), {"linear": 0.01, "vp": 1e-12, "gvp": 0.5})
    assert few.summary() == "linear: 0.01, vp: < 1e-9, gvp: 0.5"
    six = [f"case {n}" for n in range(6)]
    many = Verdict(claim(cases=six), {name: 0.03 * n for n, name in enumerate(six)})
    assert many.summary() == "4 of 6 cases pass; worst: case 5: 0.15; failing: case 4; case 5"
    all_pass = Verdict(claim(cases=six), dict.fromkeys(six, 0.05))
    assert all_pass.summary() == "6 of 6 cases pass; worst: case 0: 0.05"


def test_verdict_as_html_is_escaped_anchored_and_has_math() -> None:
    tricky = claim(cases=["all"], statement="If $a < b$ & <b>c</b>, then.", comparator="at_least")
    html = Verdict(tricky, {"all": 1e-12})._repr_html_()
    assert html.startswith('<div class="claim claim-fails" id="claim-02-floor">')
    assert r'<span class="math notranslate nohighlight">\(a &lt; b\)</span>' in html
    assert "&amp; &lt;b&gt;c&lt;/b&gt;, then." in html and "&lt; 1e-9" in html
    assert "✗</span> does not hold" in html and "required: at least 0.1" in html


def test_a_note_is_shown_under_the_statement() -> None:
    noted = Verdict(claim(cases=["a"], note="At $t < 1$ & more."), {"a": 0.5})
    assert repr(noted).splitlines()[2] == "At $t < 1$ & more."
    html = noted._repr_html_()
    assert r"\(t &lt; 1\)</span> &amp; more.</p>" in html
    assert html.index("claim-statement") < html.index("claim-note") < html.index("claim-measured")
    assert "claim-note" not in Verdict(claim(cases=["a"]), {"a": 0.5})._repr_html_()


def test_criteria_in_words() -> None:
    assert numbers.criterion(claim()) == "at most 0.1"
    assert numbers.criterion(claim(comparator="at_least", threshold=1e-6)) == "at least 1e-6"
    interval = claim(comparator="between", threshold=[-1.0, 2.5])
    assert numbers.criterion(interval) == "between -1 and 2.5"
