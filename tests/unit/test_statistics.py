"""Statistics against calculations by hand."""

from __future__ import annotations

import itertools
import random

import pytest

from sandbox_lite.bench import statistics
from sandbox_lite.bench.statistics import Try
from sandbox_lite.errors import SpecError

pytestmark = pytest.mark.timeout(60)  # libraries are imported, on a machine that is busy


@pytest.mark.parametrize(
    ("better", "worse", "p_value"),
    [
        (0, 0, 1.0),
        (1, 0, 1.0),  # 2 * (1/2)
        (5, 0, 2 / 2**5),
        (8, 2, 2 * (1 + 10 + 45) / 2**10),
        (2, 8, 2 * (1 + 10 + 45) / 2**10),
        (5, 5, 1.0),
    ],
)
def test_mcnemar(better: int, worse: int, p_value: float) -> None:
    assert statistics.mcnemar(better, worse) == pytest.approx(p_value)


def by_hand(differences: list[float]) -> float:
    """Every pattern of signs, counted."""
    observed = abs(sum(differences))
    patterns = itertools.product((1, -1), repeat=len(differences))
    sums = [abs(sum(s * d for s, d in zip(signs, differences, strict=True))) for signs in patterns]
    return sum(one >= observed - 1e-9 for one in sums) / len(sums)


def test_sign_flip_counts_every_pattern() -> None:
    # of the 8 patterns of three equal differences two are as far out: +++ and ---
    assert statistics.sign_flip([0.5, 0.5, 0.5]) == pytest.approx(2 / 8)
    # |sum| of (1, 2, 3) is 6 for +++ and ---, and less for the six others
    assert statistics.sign_flip([0.1, 0.2, 0.3]) == pytest.approx(2 / 8)
    assert statistics.sign_flip([0.0, 0.0]) == 1.0
    for seed in range(5):
        drawn = random.Random(seed)
        differences = [drawn.choice((-0.5, -0.25, 0.0, 0.25, 0.5, 1.0)) for _ in range(9)]
        if any(differences):
            assert statistics.sign_flip(differences) == pytest.approx(by_hand(differences))


def test_sign_flip_with_many_problems_draws_from_its_seed() -> None:
    differences = [0.5] * 14 + [-0.5] * 6
    found = statistics.sign_flip(differences, seed=7)
    assert found == statistics.sign_flip(differences, seed=7)
    assert found != statistics.sign_flip(differences, seed=8)
    # as a sign test: twice the chance of 14 or more heads of 20
    assert found == pytest.approx(0.1153, abs=0.02)


def test_holm() -> None:
    adjusted = statistics.holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    # 4 * .005, 3 * .01, 2 * .03, and 1 * .04 raised to the one before it
    assert adjusted == pytest.approx({"d": 0.02, "a": 0.03, "c": 0.06, "b": 0.06})
    assert statistics.holm({"a": 0.7, "b": 0.6}) == {"b": 1.0, "a": 1.0}
    assert statistics.holm({}) == {}


@pytest.mark.parametrize(
    ("tries", "right", "k", "chance"),
    [
        (4, 1, 1, 1 / 4),
        (4, 1, 2, 1 / 2),  # 1 - C(3,2)/C(4,2) = 1 - 3/6
        (4, 2, 2, 5 / 6),  # 1 - C(2,2)/C(4,2)
        (4, 2, 3, 1.0),
        (4, 0, 4, 0.0),
        (1, 1, 1, 1.0),
    ],
)
def test_pass_at(tries: int, right: int, k: int, chance: float) -> None:
    assert statistics.pass_at(tries, right, k) == pytest.approx(chance)


def test_repeats() -> None:
    found = statistics.repeats({"a": [1, 1, 1, 1], "b": [1, 0, 0.5, 1], "c": [0, 0, 0, 0]})
    assert found.tries == 4
    # b is right twice of four: 1/2, 5/6, 1, 1
    assert found.pass_at == pytest.approx(
        {1: (1 + 1 / 2) / 3, 2: (1 + 5 / 6) / 3, 3: 2 / 3, 4: 2 / 3}
    )
    assert found.all_right == pytest.approx(1 / 3)
    # two tries of b agree in (C(2,2) + C(2,2)) / C(4,2) = 1/3 of the pairs
    assert found.agreement == pytest.approx((1 + 1 / 3 + 1) / 3)
    uneven = statistics.repeats({"a": [1], "b": [0, 1]})
    assert (uneven.tries, uneven.pass_at, uneven.agreement) == (1, {1: 0.75}, None)


def test_interval_is_that_of_resampled_problems() -> None:
    # the mean of two problems, 0 and 1, resampled: 0 with chance 1/4, 1/2, 1 with chance 1/4
    two = statistics.interval([0.0, 1.0])
    assert (two.mean, two.low, two.high, two.problems) == (0.5, 0.0, 1.0, 2)
    # 50 right of 100: binomial, 2.5 % and 97.5 % of Bin(100, 1/2) are 40 and 60
    hundred = statistics.interval([1.0] * 50 + [0.0] * 50, seed=3)
    assert hundred.mean == 0.5
    assert hundred.low == pytest.approx(0.40, abs=0.011)
    assert hundred.high == pytest.approx(0.60, abs=0.011)
    assert hundred == statistics.interval([1.0] * 50 + [0.0] * 50, seed=3)
    assert hundred.seed == 3


def test_interval_of_what_cannot_be_resampled() -> None:
    same = statistics.interval([0.5, 0.5, 0.5])
    assert (same.low, same.high) == (0.5, 0.5)
    one = statistics.interval([0.5])
    assert (one.mean, one.low, one.high) == (0.5, None, None)
    with pytest.raises(SpecError):
        statistics.interval([])


def test_one_binary_try_each_is_mcnemars() -> None:
    sandbox = {f"p{n}": [1.0] for n in range(8)} | {"q0": [0.0], "q1": [0.0], "only": [1.0]}
    plain = {f"p{n}": [0.0] for n in range(8)} | {"q0": [1.0], "q1": [1.0]}
    found = statistics.compare(sandbox, plain)
    assert (found.method, found.exact) == ("mcnemar", True)
    assert (found.better, found.worse, found.unpaired) == (8, 2, 1)
    assert found.p_value == pytest.approx(2 * 56 / 1024)
    assert found.difference.mean == pytest.approx(0.6)


def test_repeats_and_fractions_are_sign_flips() -> None:
    sandbox = {"a": [1.0, 1.0], "b": [1.0, 0.0], "c": [1.0, 1.0]}
    plain = {"a": [0.0, 0.0], "b": [0.0, 0.0], "c": [1.0, 0.0]}
    found = statistics.compare(sandbox, plain)
    assert (found.method, found.exact) == ("sign-flip", True)
    assert found.difference.mean == pytest.approx((1 + 0.5 + 0.5) / 3)
    assert found.p_value == pytest.approx(2 / 8)
    fractions = statistics.compare({"a": [0.7], "b": [1.0]}, {"a": [0.2], "b": [1.0]})
    assert fractions.method == "sign-flip"
    assert fractions.p_value == 1.0  # of +-0.5 and 0 every pattern is as far out
    with pytest.raises(SpecError):
        statistics.compare({"a": [1.0]}, {"b": [1.0]})


def test_tries_of_one_problem_are_no_further_evidence() -> None:
    """16 tries of each of 4 problems: McNemar over 64 pairs would be sure of a chance result."""
    sandbox = {"a": [1.0] * 16, "b": [1.0] * 16, "c": [1.0] * 16, "d": [0.0] * 16}
    plain = {"a": [0.0] * 16, "b": [0.0] * 16, "c": [0.0] * 16, "d": [1.0] * 16}
    assert statistics.mcnemar(48, 16) < 0.001
    # of 16 patterns ++++ and ----, and the eight with one odd sign, are as far out
    assert statistics.compare(sandbox, plain).p_value == pytest.approx(10 / 16)


def test_sign_flip_keeps_its_level() -> None:
    """Two modes that are equal: about 5 % of experiments may be called different."""
    drawn = random.Random(0)
    called = 0
    for _ in range(100):
        differences = []
        for _ in range(12):
            chance = drawn.random()
            one, other = (sum(drawn.random() < chance for _ in range(16)) / 16 for _ in range(2))
            differences.append(one - other)
        called += statistics.sign_flip(differences, resamples=4096) < 0.05
    assert called <= 12


def test_summary_by_domain() -> None:
    tries = [
        *(Try(domain="math", mode="sandbox", problem=f"p{n}", value=1.0) for n in range(6)),
        *(Try(domain="math", mode="plain", problem=f"p{n}", value=0.0) for n in range(6)),
        Try(domain="chem", mode="sandbox", problem="c", value=1.0),
        Try(domain="chem", mode="sandbox", problem="c", value=0.0),
        Try(domain="chem", mode="plain", problem="c", value=0.5),
        Try(domain="travel", mode="sandbox", problem="t", value=1.0),
    ]
    found = statistics.summarize(tries, seed=5)
    math, chem, travel = (found.domains[name] for name in ("math", "chem", "travel"))
    assert math.modes["sandbox"].mean == 1.0
    assert math.modes["plain"].mean == 0.0
    assert math.comparison is not None
    assert math.comparison.p_value == pytest.approx(2 / 64)
    assert math.adjusted_p_value == pytest.approx(2 * 2 / 64)
    assert chem.modes["sandbox"].mean == 0.5
    assert chem.comparison is not None
    assert chem.comparison.method == "sign-flip"
    assert chem.adjusted_p_value == 1.0
    assert chem.repeats["sandbox"].pass_at == {1: 0.5, 2: 1.0}
    assert travel.comparison is None
    assert travel.adjusted_p_value is None
    assert found.seed == 5
    with pytest.raises(SpecError, match="not between 0 and 1"):
        statistics.summarize([Try(domain="d", mode="plain", problem="p", value=1.5)])
