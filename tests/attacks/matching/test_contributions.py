import pytest
import torch

from engine.attacks.matching import Observation, Place
from engine.attacks.matching.contributions import (
    CANCELLATION,
    SMALL,
    Doubt,
    Gradients,
    Sums,
    collect,
    of_gradients,
)
from engine.attacks.matching.moments import Target
from engine.federation import Update
from tests.attacks.matching import oracle
from tests.attacks.matching.oracle import assert_close
from tests.conftest import seeded

CANDIDATES = 6


def numbers(*shape, seed=1):
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def doubtful(gap, subtracted, *, truth, step=2):
    """Returns sums with a gap that is wrong, and candidates it was computed again for."""
    asked = []

    def explicit(rows):
        asked.append(rows)
        return Sums(truth[rows], truth[rows])

    return Sums(gap, gap, Doubt(subtracted, explicit, step)), asked


def full(value):
    return torch.full((CANDIDATES,), value, dtype=torch.float64)


@pytest.mark.parametrize("entries", [1, SMALL, SMALL + 1])
def test_small_and_large_tensors_have_the_moments_of_their_gradients(entries):
    gradients, values = numbers(CANDIDATES, entries), numbers(entries, seed=2)

    contribution = of_gradients(gradients.clone(), Target(values))

    assert isinstance(contribution, Gradients) == (entries <= SMALL)
    squared, gap = collect([(0, contribution)], 1)
    expected = oracle.moments(gradients, values)
    assert_close(squared[:, 0], expected[0])
    assert_close(gap[:, 0], expected[1])


def test_parts_of_a_tensor_add_up_in_its_column():
    small, large = numbers(CANDIDATES, 3), numbers(CANDIDATES, SMALL + 1)
    zero = [torch.zeros_like(rows[0]) for rows in (small, large)]
    parts = [(2, of_gradients(small.clone(), Target(zero[0])))]
    parts += [(2, of_gradients(large.clone(), Target(zero[1])))]
    parts += [(0, of_gradients(small.clone(), Target(zero[0])))]

    squared, gap = collect(parts, 3)

    own = [rows.square().sum(1) for rows in (small, large)]
    assert_close(squared, torch.stack((own[0], 0 * own[0], own[0] + own[1]), 1))
    assert_close(gap, squared)


def test_a_gap_with_digits_enough_is_not_computed_again():
    sums, asked = doubtful(full(1.0), full(0.9 / CANCELLATION), truth=full(7.0))

    squared, gap = collect([(0, sums)], 1)

    assert asked == []
    assert_close(gap[:, 0], full(1.0))
    assert_close(squared[:, 0], full(1.0))


def test_other_tensors_gaps_make_up_for_missing_digits():
    sums, asked = doubtful(full(1.0), full(5 / CANCELLATION), truth=full(7.0))
    others = Sums(full(0.0), full(4.1))

    collect([(0, sums), (1, others)], 2)

    assert asked == []


def test_only_candidates_without_digits_are_computed_again_by_groups_that_do_not_vary():
    subtracted = full(0.0)
    subtracted[3] = subtracted[4] = 2 / CANCELLATION
    sums, asked = doubtful(full(1.0), subtracted, truth=full(7.0))

    _, gap = collect([(0, sums)], 1)

    assert asked == [slice(2, 4), slice(4, 6)]
    assert gap[:, 0].tolist() == [1, 1, 1, 7, 7, 1]


def test_sums_are_computed_again_one_after_the_other_until_the_rest_suffices():
    first, asked_first = doubtful(full(1.0), full(3 / CANCELLATION), truth=full(1.0))
    second, asked_second = doubtful(full(1.0), full(1 / CANCELLATION), truth=full(1.0))

    collect([(0, first), (1, second)], 2)

    assert len(asked_first) == CANDIDATES / 2
    assert asked_second == []


def test_a_gap_computed_again_makes_up_for_missing_digits_too():
    first, _ = doubtful(full(1.0), full(3 / CANCELLATION), truth=full(7.0))
    second, asked = doubtful(full(1.0), full(2.5 / CANCELLATION), truth=full(1.0))

    collect([(0, first), (1, second)], 2)

    assert asked == []


def test_a_candidate_without_a_finite_gap_disturbs_no_other():
    gap = full(1.0)
    gap[1] = torch.nan
    sums, _ = doubtful(gap, full(2 / CANCELLATION), truth=full(7.0))

    _, found = collect([(0, sums)], 1)

    assert found[1].isnan()
    assert found[[0, 2, 3, 4, 5], 0].tolist() == [7] * 5


@pytest.mark.parametrize("masked", [False, True])
def test_what_lies_outside_all_places_is_known(masked):
    values = numbers(1, 4, 3)
    masks = {"w": (numbers(4, 3, seed=2) > 0).double()} if masked else {}
    observation = Observation(Update({"w": values}), masks)
    places = (Place("w", ((0, 2),)), Place("w", ((2, 3), (1, 3))))

    outside = observation.outside(places)

    expected = values[0, 2, 0].square() + values[0, 3].square().sum()
    assert_close(outside, expected)
    assert observation.target(places[1]).values.tolist() == values[0, 2:3, 1:3].tolist()
