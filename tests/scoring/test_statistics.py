import numpy as np
import pytest
from scipy.stats import beta
from scipy.stats import t as student

from engine.scoring.statistics import (
    estimate_mean,
    estimate_proportion,
    estimate_ratio,
    leakage_fraction,
)


def covered(draw, truth, *, audits=250):
    estimates = [draw() for _ in range(audits)]
    return np.mean([estimate.low <= truth <= estimate.high for estimate in estimates])


@pytest.mark.parametrize("targets", [8, 20])
def test_the_interval_of_a_mean_covers_it_at_its_stated_rate(targets):
    rng = np.random.default_rng(targets)

    normal = covered(lambda: estimate_mean(rng.normal(size=targets)), 0)
    skewed = covered(lambda: estimate_mean(rng.exponential(size=targets)), 1)

    assert 0.90 <= normal <= 0.99
    assert 0.89 <= skewed <= 0.99


def test_the_interval_of_a_ratio_covers_it_at_its_stated_rate():
    rng = np.random.default_rng(1)

    def draw():
        room = rng.uniform(5, 12, size=8)
        return estimate_ratio(0.6 * room + rng.normal(size=8), room)

    assert 0.90 <= covered(draw, 0.6) <= 0.99


@pytest.mark.parametrize("targets", [3, 4, 7])
def test_intervals_of_few_targets_cover_at_their_stated_rate_and_stay_near(targets):
    rng = np.random.default_rng(targets)

    def draw():
        room = rng.uniform(5, 12, size=targets)
        return estimate_ratio(0.6 * room + rng.normal(size=targets), room)

    widths = [estimate.high - estimate.low for estimate in (draw() for _ in range(250))]

    assert 0.90 <= covered(draw, 0.6) <= 0.99
    assert 0.90 <= covered(lambda: estimate_mean(rng.normal(size=targets)), 0) <= 0.99
    assert max(widths) < 10 * np.median(widths)


def test_few_targets_have_students_interval():
    values = np.array([17.0, 18.5, 20.5, 23.0])

    estimate = estimate_mean(values)

    expected = student.interval(0.95, 3, values.mean(), values.std(ddof=1) / 2)
    assert (estimate.low, estimate.high) == pytest.approx(expected)


def test_a_mean_is_the_mean_and_its_interval_is_around_it():
    estimate = estimate_mean(np.array([1.0, 2.0, 3.0, 6.0]))

    assert estimate.mean == 3.0
    assert estimate.low < 3.0 < estimate.high


def test_more_targets_narrow_the_interval():
    rng = np.random.default_rng(2)
    few, many = (estimate_mean(rng.normal(size=n)) for n in (8, 200))

    assert many.high - many.low < 0.5 * (few.high - few.low)


def test_equal_values_have_an_interval_of_no_width():
    estimate = estimate_mean(np.full(5, 2.5))

    assert (estimate.mean, estimate.low, estimate.high) == (2.5, 2.5, 2.5)


@pytest.mark.parametrize("values", [[4.0], [3.0, 5.0]])
def test_one_or_two_targets_have_no_interval(values):
    estimate = estimate_mean(np.array(values))

    assert (estimate.mean, estimate.low, estimate.high) == (4.0, None, None)


def test_estimates_are_the_same_every_time():
    values = np.random.default_rng(3).normal(size=9)

    assert estimate_mean(values) == estimate_mean(values.copy())


@pytest.mark.parametrize(("hits", "targets"), [(0, 8), (3, 8), (8, 8), (0, 59)])
def test_a_hit_rate_has_the_exact_interval(hits, targets):
    values = np.array([1.0] * hits + [0.0] * (targets - hits))

    estimate = estimate_proportion(values)

    low = beta.ppf(0.025, hits, targets - hits + 1) if hits else 0.0
    high = beta.ppf(0.975, hits + 1, targets - hits) if hits < targets else 1.0
    assert estimate.mean == hits / targets
    assert estimate.low == pytest.approx(low, abs=1e-9)
    assert estimate.high == pytest.approx(high, abs=1e-9)


def test_no_hit_is_no_zero_risk():
    assert estimate_proportion(np.zeros(8)).high > 0.35


@pytest.mark.parametrize("images", [2, 4])
@pytest.mark.parametrize("targets", [3, 8])
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_the_interval_of_rates_of_few_images_covers_at_least_at_its_stated_rate(
    rate, targets, images
):
    rng = np.random.default_rng(7)
    covered = 0
    for _ in range(300):
        estimate = estimate_proportion(rng.binomial(images, rate, targets) / images)
        covered += estimate.low <= rate <= estimate.high

    assert covered >= 0.95 * 300


def test_rates_that_add_up_to_whole_hits_have_the_interval_of_those_hits():
    rates = estimate_proportion(np.array([0.5, 0.5, 0.75, 0.25, 0.5, 0.5]))
    hits = estimate_proportion(np.array([1.0, 1.0, 1.0, 0.0, 0.0, 0.0]))

    assert rates.mean == hits.mean
    assert (rates.low, rates.high) == pytest.approx((hits.low, hits.high))


def test_rates_per_target_have_an_interval_inside_zero_and_one():
    estimate = estimate_proportion(np.array([0.0, 0.02, 0.0, 0.5, 0.01, 0.0]), often=True)

    assert 0.0 <= estimate.low < estimate.mean < estimate.high <= 1.0


def test_the_leakage_fraction_is_zero_at_the_floor_and_one_at_the_ceiling():
    floor, ceiling = np.array([10.0, 12.0, 9.0]), np.array([20.0, 25.0, 21.0])

    assert leakage_fraction(floor, floor, ceiling).mean == 0.0
    assert leakage_fraction(ceiling, floor, ceiling).mean == 1.0
    assert leakage_fraction((floor + ceiling) / 2, floor, ceiling).mean == pytest.approx(0.5)


def test_the_leakage_fraction_weighs_targets_by_the_room_they_have():
    attack, floor, ceiling = np.array([11.0, 10.0]), np.array([10.0, 10.0]), np.array([11.0, 19.0])

    assert leakage_fraction(attack, floor, ceiling).mean == pytest.approx(1 / 10)


def test_without_room_between_floor_and_ceiling_there_is_no_fraction():
    floor = np.array([10.0, 11.0])

    assert leakage_fraction(floor, floor, floor - 1) is None
