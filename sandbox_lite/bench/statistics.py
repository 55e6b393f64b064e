"""What the scores say: the unit is the problem, never the episode.

Tries of one problem are alike; as if they were independent they would make every interval too
narrow and every difference significant. Means are over problems, intervals are from resampled
problems, and the two modes are compared problem by problem. What is drawn at random is drawn from a
seed that is kept with the result.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import fmean
from typing import TYPE_CHECKING, Literal

from sandbox_lite.bench.libraries import need
from sandbox_lite.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sandbox_lite.bench.task import Mode

RESAMPLES = 10_000
CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Try:
    """The score of one episode; those that ended in a fault of ours, or ungraded, are none."""

    domain: str
    mode: Mode
    problem: str
    """`Row.problem`, or its id."""
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A mean over problems, and the bounds of what resampled problems give."""

    mean: float
    low: float | None
    """None with one problem: resampling it tells nothing."""
    high: float | None
    problems: int
    confidence: float = CONFIDENCE
    resamples: int = RESAMPLES
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Sandbox against plain, over the problems that have scores in both modes."""

    method: Literal["sign-flip", "mcnemar"]
    difference: Interval
    """Sandbox less plain."""
    p_value: float
    """Two-sided; 1 where nothing differs."""
    exact: bool
    """Every sign pattern was counted, none drawn."""
    unpaired: int
    """Problems left out because one mode has no score of them."""
    better: int
    """Problems on which the sandbox scores higher."""
    worse: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeats:
    """What several tries of each problem say; right is a score of 1."""

    tries: int
    """Of the problem with the fewest."""
    pass_at: Mapping[int, float]
    """By k: chance that one of k tries is right, unbiased, mean over problems."""
    all_right: float
    """Share of problems whose tries are all right."""
    agreement: float | None
    """Chance that two tries of one problem are both right or both wrong; None with one try."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainSummary:
    """One domain."""

    modes: Mapping[Mode, Interval]
    repeats: Mapping[Mode, Repeats]
    comparison: Comparison | None
    """None where no problem has scores in both modes."""
    adjusted_p_value: float | None = None
    """Holm over all domains that were compared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """All domains, and the seed from which every random draw came."""

    domains: Mapping[str, DomainSummary]
    seed: int
    confidence: float = CONFIDENCE
    resamples: int = RESAMPLES
    notes: tuple[str, ...] = field(default=())


def summarize(tries: Iterable[Try], *, seed: int = 0, resamples: int = RESAMPLES) -> Summary:
    """Return means, intervals, comparisons and repeats by domain.

    Raises:
        HostError: scipy lacks.
        SpecError: A value is not between 0 and 1.
    """
    values: dict[str, dict[Mode, dict[str, list[float]]]] = {}
    for one in tries:
        if not 0.0 <= one.value <= 1.0:
            raise SpecError(f"a score of {one.value} of {one.problem} is not between 0 and 1")
        of_mode = values.setdefault(one.domain, {}).setdefault(one.mode, {})
        of_mode.setdefault(one.problem, []).append(one.value)
    found: dict[str, DomainSummary] = {}
    for domain, modes in sorted(values.items()):
        compared = None
        if modes.get("sandbox", {}).keys() & modes.get("plain", {}).keys():
            compared = compare(modes["sandbox"], modes["plain"], seed=seed, resamples=resamples)
        found[domain] = DomainSummary(
            modes={
                mode: interval([fmean(v) for v in problems.values()], seed=seed,
                               resamples=resamples)
                for mode, problems in sorted(modes.items())
            },
            repeats={mode: repeats(problems) for mode, problems in sorted(modes.items())},
            comparison=compared,
        )  # fmt: skip
    adjusted = holm(
        {name: one.comparison.p_value for name, one in found.items() if one.comparison is not None}
    )
    domains = {
        name: DomainSummary(
            modes=one.modes, repeats=one.repeats, comparison=one.comparison,
            adjusted_p_value=adjusted.get(name),
        )
        for name, one in found.items()
    }  # fmt: skip
    return Summary(domains=domains, seed=seed, resamples=resamples)


def interval(
    values: Sequence[float],
    *,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Return the mean of per-problem values with its bootstrap percentile interval.

    Raises:
        SpecError: There are no values.
    """
    if not values:
        raise SpecError("no problem has a score")
    mean = fmean(values)
    low = high = mean if len(values) > 1 else None
    if min(values) != max(values):
        stats, numpy = need("scipy.stats", "statistics"), need("numpy", "statistics")
        found = stats.bootstrap(
            (numpy.asarray(values, dtype=float),),
            numpy.mean,
            vectorized=True,
            n_resamples=resamples,
            batch=max(1, 10**6 // len(values)),
            confidence_level=confidence,
            method="percentile",
            rng=numpy.random.default_rng(seed),
        ).confidence_interval
        low, high = float(found.low), float(found.high)
    return Interval(
        mean=mean, low=low, high=high, problems=len(values), confidence=confidence,
        resamples=resamples, seed=seed,
    )  # fmt: skip


def compare(
    sandbox: Mapping[str, Sequence[float]],
    plain: Mapping[str, Sequence[float]],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Comparison:
    """Return how the two modes differ, given the scores of all tries by problem.

    With one try of each problem in each mode and scores of 0 and 1 alone it is McNemar's exact
    test, else a sign-flip test on the differences of per-problem means: every pattern of signs
    where they are at most `resamples`, else that many at random.

    Raises:
        SpecError: No problem has scores in both modes.
    """
    both = sorted(sandbox.keys() & plain.keys())
    if not both:
        raise SpecError("no problem has scores in both modes")
    differences = [fmean(sandbox[name]) - fmean(plain[name]) for name in both]
    tries = [values for name in both for values in (sandbox[name], plain[name])]
    binary = all(len(values) == 1 and values[0] in (0.0, 1.0) for values in tries)
    better = sum(difference > 0 for difference in differences)
    worse = sum(difference < 0 for difference in differences)
    exact = binary or 2 ** min(len(both), 64) <= resamples
    if binary:
        p_value = mcnemar(better, worse)
    else:
        p_value = sign_flip(differences, resamples=resamples, seed=seed)
    return Comparison(
        method="mcnemar" if binary else "sign-flip",
        difference=interval(differences, seed=seed, resamples=resamples),
        p_value=p_value,
        exact=exact,
        unpaired=len(sandbox.keys() ^ plain.keys()),
        better=better,
        worse=worse,
    )


def mcnemar(better: int, worse: int) -> float:
    """Return the exact two-sided p value of McNemar's test, given the discordant pairs."""
    if better + worse == 0:
        return 1.0
    stats = need("scipy.stats", "statistics")
    return float(stats.binomtest(better, better + worse, 0.5).pvalue)


def sign_flip(differences: Sequence[float], *, resamples: int = RESAMPLES, seed: int = 0) -> float:
    """Return the two-sided p value of a sign-flip test on the mean of paired differences.

    Under the null hypothesis each difference is as likely with the other sign.
    """
    if not any(differences):
        return 1.0
    stats, numpy = need("scipy.stats", "statistics"), need("numpy", "statistics")
    found = stats.permutation_test(
        (numpy.asarray(differences, dtype=float),),
        lambda values, axis: numpy.mean(values, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=resamples,
        batch=max(1, 10**6 // len(differences)),
        alternative="two-sided",
        rng=numpy.random.default_rng(seed),
    )
    return float(found.pvalue)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return p values adjusted for their number by Holm's step-down method."""
    adjusted: dict[str, float] = {}
    so_far = 0.0
    ordered = sorted(p_values.items(), key=lambda item: item[1])
    for place, (name, value) in enumerate(ordered):
        so_far = max(so_far, min(1.0, (len(ordered) - place) * value))
        adjusted[name] = so_far
    return adjusted


def repeats(values: Mapping[str, Sequence[float]]) -> Repeats:
    """Return pass@k, and how well the tries of a problem agree, given all scores by problem.

    k goes up to the tries of the problem with the fewest.

    Raises:
        SpecError: There are no values.
    """
    if not values or not all(values.values()):
        raise SpecError("no problem has a score")
    counts = [(len(tries), sum(value >= 1.0 for value in tries)) for tries in values.values()]
    fewest = min(count for count, _ in counts)
    agreement = None
    if fewest > 1:
        agreement = fmean(
            (math.comb(right, 2) + math.comb(count - right, 2)) / math.comb(count, 2)
            for count, right in counts
        )
    return Repeats(
        tries=fewest,
        pass_at={
            k: fmean(pass_at(count, right, k) for count, right in counts)
            for k in range(1, fewest + 1)
        },
        all_right=fmean(float(count == right) for count, right in counts),
        agreement=agreement,
    )


def pass_at(tries: int, right: int, k: int) -> float:
    """Return the unbiased estimate of the chance that one of k tries is right.

    Source: Chen et al., Evaluating Large Language Models Trained on Code (2021), equation 1.

    Raises:
        SpecError: There are fewer than k tries.
    """
    if not 1 <= k <= tries or not 0 <= right <= tries:
        raise SpecError(f"pass@{k} cannot be told from {right} right of {tries} tries")
    return 1.0 - math.comb(tries - right, k) / math.comb(tries, k)
