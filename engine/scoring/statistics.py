"""Intervals over target images, and the leakage fraction.

All of them hold the target model, the generator and the seeds fixed: they say how much the figure
would move with other private images of the same kind. A target tried with several seeds has one
value, their mean.
"""

from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95
RESAMPLES = 4000
# Two targets resample to nothing but themselves: an interval of no width, which would be a lie.
FEWEST_TARGETS = 3
# Resamples of fewer may be so alike that an end of the interval lies a thousand deviations away.
FEWEST_RESAMPLED = 8
BOOTSTRAP_SEED = 20220323


@dataclass(frozen=True)
class Estimate:
    """A figure with its interval.

    Attributes:
        mean: The figure over the targets.
        low: Lower end of the interval; None with fewer than 3 targets.
        high: Upper end of the interval; None with fewer than 3 targets.
    """

    mean: float
    low: float | None
    high: float | None


def estimate_mean(values: np.ndarray) -> Estimate:
    """Estimates the mean of a metric with a bootstrap-t interval.

    The bootstrap-t (`Efron and Tibshirani 1993 <https://doi.org/10.1201/9780429246593>`_, chapter
    12) resamples the targets and studentises, which keeps its coverage with 8 to 20 targets, where
    a percentile interval of nominally 95 % covers less than 90 %. Fewer than 8 targets get
    Student's interval.

    Args:
        values: One value a target, ``(n,)``.
    """
    return estimate_ratio(values, np.ones_like(values))


def estimate_ratio(numerators: np.ndarray, denominators: np.ndarray) -> Estimate:
    """Estimates ``sum(numerators) / sum(denominators)`` with an interval, as of a mean.

    Args:
        numerators: One value a target, ``(n,)``.
        denominators: One value a target, ``(n,)``, of a positive sum.
    """
    ratio, error = _ratio(numerators[None], denominators[None])
    mean, spread = float(ratio[0]), float(error[0])
    if len(numerators) < FEWEST_TARGETS:
        return Estimate(mean, None, None)
    if spread == 0:
        return Estimate(mean, mean, mean)
    if len(numerators) < FEWEST_RESAMPLED:
        from scipy.stats import t  # Deferred: takes seconds to import.

        half = spread * float(t.ppf((1 + CONFIDENCE) / 2, len(numerators) - 1))
        return Estimate(mean, mean - half, mean + half)
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    rows = rng.integers(0, len(numerators), (RESAMPLES, len(numerators)))
    ratios, errors = _ratio(numerators[rows], denominators[rows])
    # A resample of one target alone has no spread; it says nothing about the tails.
    usable = (errors > 1e-9 * spread) & np.isfinite(ratios)
    deviations = (ratios[usable] - mean) / errors[usable]
    tails = np.quantile(deviations, [(1 + CONFIDENCE) / 2, (1 - CONFIDENCE) / 2])
    low, high = mean - tails * spread
    return Estimate(mean, float(low), float(high))


def estimate_proportion(values: np.ndarray, *, often: bool = False) -> Estimate:
    """Estimates a hit rate: exact (Clopper-Pearson) for hits and misses.

    Rates of a client's few images, or of a few seeds, take so few values that a bootstrap-t can
    cover less than half of the time. They get the interval of as many targets with as many hits in
    all, fractions included: rates vary less than hits and misses of the same mean, so that it
    covers more often than stated.

    Args:
        values: One value a target, ``(n,)`` in [0, 1]; rates where a target was tried repeatedly.
        often: Whether that was so often that a bootstrap-t does for rates.
    """
    mixed = not np.isin(values, (0.0, 1.0)).all()
    if mixed and often:
        estimate = estimate_mean(values)
        low, high = estimate.low, estimate.high
        return Estimate(
            estimate.mean, low and max(low, 0.0), None if high is None else min(high, 1.0)
        )
    from scipy.stats import beta, binomtest  # Deferred: takes seconds to import.

    if mixed:
        hits, misses, tail = values.sum(), (1 - values).sum(), (1 - CONFIDENCE) / 2
        low, high = beta.ppf(tail, hits, misses + 1), beta.isf(tail, hits + 1, misses)
        return Estimate(float(values.mean()), float(low), float(high))
    interval = binomtest(int(values.sum()), len(values)).proportion_ci(CONFIDENCE, method="exact")
    return Estimate(float(values.mean()), float(interval.low), float(interval.high))


def leakage_fraction(attack: np.ndarray, floor: np.ndarray, ceiling: np.ndarray) -> Estimate | None:
    """Estimates (attack - floor) / (ceiling - floor) as a ratio of sums over the targets.

    0 is what an attacker gets without the update's help, 1 the best the generator can draw. A
    ratio of sums, since single targets that the prior already draws well have next to no room
    between floor and ceiling.

    Args:
        attack: PSNR of the attack, one value a target, ``(n,)``.
        floor: PSNR of ``prior_only`` on the same targets.
        ceiling: PSNR of ``oracle`` on the same targets.

    Returns:
        The fraction, or None if the ceiling is not above the floor.
    """
    room = ceiling - floor
    if not room.sum() > 0:
        return None
    return estimate_ratio(attack - floor, room)


def _ratio(numerators: np.ndarray, denominators: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the ratio of sums and its standard error for rows ``(m, n)`` of targets."""
    count = numerators.shape[1]
    scale = denominators.mean(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = numerators.mean(1) / scale
        residuals = (numerators - ratio[:, None] * denominators) / scale[:, None]
    error = np.sqrt((residuals**2).sum(1) / max(count - 1, 1) / count)
    return ratio, error
