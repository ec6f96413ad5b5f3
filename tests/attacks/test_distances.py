import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.attacks.distances import DISTANCES, cosine, squared_l2
from engine.federation import Update
from tests.conftest import seeded


def random_update(clients, seed):
    return Update(
        {
            "w": torch.randn(clients, 3, 2, 2, generator=seeded(seed), dtype=torch.float64),
            "b": torch.randn(clients, 3, generator=seeded(seed + 1), dtype=torch.float64),
        }
    )


def flat(update, row):
    return np.concatenate([tensor[row].numpy().ravel() for tensor in update.tensors.values()])


def test_squared_l2_is_summed_over_entries_and_averaged_over_tensors():
    candidates = Update({"w": torch.tensor([[1.0, 3.0], [0.0, 0.0]]), "b": torch.zeros(2, 1)})
    observed = Update({"w": torch.tensor([[0.0, 1.0]]), "b": torch.tensor([[3.0]])})

    assert squared_l2(candidates, observed).tolist() == [(1 + 4 + 9) / 2, (0 + 1 + 9) / 2]


def test_squared_l2_equals_a_loop_over_candidates():
    candidates, observed = random_update(5, 0), random_update(1, 10)

    expected = [((flat(candidates, row) - flat(observed, 0)) ** 2).sum() / 2 for row in range(5)]

    np.testing.assert_allclose(squared_l2(candidates, observed).numpy(), expected, rtol=1e-12)


def test_cosine_equals_a_loop_over_candidates():
    candidates, observed = random_update(5, 0), random_update(1, 10)
    truth = flat(observed, 0)

    expected = [
        1 - row @ truth / math.sqrt((row @ row) * (truth @ truth))
        for row in (flat(candidates, row) for row in range(5))
    ]

    np.testing.assert_allclose(cosine(candidates, observed).numpy(), expected, rtol=1e-10)


@pytest.mark.parametrize(("factor", "distance"), [(2.0, 0.0), (-0.5, 2.0), (0.0, 1.0)])
def test_cosine_of_a_multiple(factor, distance):
    observed = random_update(1, 0)

    found = cosine(observed.map(lambda tensor: factor * tensor), observed)

    torch.testing.assert_close(found, torch.tensor([distance], dtype=torch.float64))


def test_cosine_to_an_observed_update_of_zeros_is_one():
    zeros = random_update(1, 0).map(torch.zeros_like)

    assert cosine(random_update(3, 0), zeros).tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("exponent", [-7, -4, 0, 4])
def test_cosine_does_not_depend_on_the_scale_of_the_updates(exponent):
    # A well-trained model's update can be this small.
    candidates, observed = random_update(3, 0), random_update(1, 10)

    scaled = cosine(*(u.map(lambda t: t * 10.0**exponent) for u in (candidates, observed)))

    torch.testing.assert_close(scaled, cosine(candidates, observed))


@given(seed=st.integers(0, 10_000))
def test_distances_are_least_at_the_observed_update(seed):
    candidates, observed = random_update(4, seed), random_update(1, seed + 7)

    for distance in DISTANCES.values():
        torch.testing.assert_close(
            distance(observed, observed), torch.zeros(1, dtype=torch.float64)
        )
        assert (distance(candidates, observed) > 0).all()
    assert (cosine(candidates, observed) <= 2 + 1e-12).all()
