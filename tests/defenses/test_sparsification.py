import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.defenses import Sparsification
from engine.defenses.sparsification import KnownMask, Pruned, percentile
from engine.errors import PlanError
from engine.federation import Update
from tests.conftest import seeded


def prune(update, percent):
    return Sparsification(percent)(update, client=None, rng=None)


@pytest.mark.parametrize("percent", [0, 10, 25, 33.3, 50, 75, 90, 99.9])
@pytest.mark.parametrize("entries", [1, 2, 5, 10, 101, 1000])
def test_percentile_equals_that_of_numpy(percent, entries):
    values = torch.randn(3, entries, generator=seeded(entries), dtype=torch.float64)

    expected = np.percentile(values.numpy(), percent, axis=1)

    np.testing.assert_allclose(percentile(values, percent)[:, 0].numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize(("percent", "third"), [(50, 3.0), (75, 4.0), (0, 1.0), (25, 2.0)])
def test_percentile_at_a_whole_position_is_an_entry_itself(percent, third):
    values = torch.tensor([[5.0, 1.0, 4.0, 2.0, 3.0]])

    assert percentile(values, percent).tolist() == [[third]]


def test_the_percentile_of_one_entry_is_it():
    assert percentile(torch.tensor([[7.0], [-2.0]]), 90).tolist() == [[7.0], [-2.0]]


def test_a_tensor_of_one_entry_is_never_pruned():
    assert prune(Update({"b": torch.tensor([[-3.0]])}), 99).tensors["b"].tolist() == [[-3.0]]


@pytest.mark.parametrize("percent", [0, 20, 50, 90, 99])
def test_each_tensor_of_each_client_is_pruned_at_its_own_percentile(percent):
    update = Update(
        {
            "w": torch.randn(3, 4, 5, generator=seeded(0), dtype=torch.float64),
            "b": 100 * torch.randn(3, 7, generator=seeded(1), dtype=torch.float64),
        }
    )

    pruned = prune(update, percent)

    for name, tensor in update.tensors.items():
        for row, mine in zip(tensor.numpy(), pruned.tensors[name].numpy(), strict=True):
            threshold = np.percentile(np.abs(row), percent)
            np.testing.assert_array_equal(mine, np.where(np.abs(row) < threshold, 0, row))


def test_entries_at_the_threshold_stay():
    update = Update({"w": torch.tensor([[1.0, -2.0, 3.0, -4.0, 5.0]])})

    assert prune(update, 50).tensors["w"].tolist() == [[0.0, 0.0, 3.0, -4.0, 5.0]]


def test_ties_at_the_threshold_all_stay():
    update = Update({"w": torch.tensor([[2.0, 2.0, -2.0, 2.0]])})

    assert prune(update, 75).tensors["w"].tolist() == [[2.0, 2.0, -2.0, 2.0]]


@given(entries=st.lists(st.floats(-100, 100), min_size=1, max_size=30), percent=st.floats(0, 99.9))
def test_pruning_twice_is_pruning_once(entries, percent):
    once = prune(Update({"w": torch.tensor([entries], dtype=torch.float64)}), percent)

    assert torch.equal(prune(once, percent).tensors["w"], once.tensors["w"])


def test_the_mask_is_estimated_from_the_zeros_of_the_observed_update(head, observed, update):
    defended = prune(observed, 80)

    imitation = Sparsification.estimate(defended, head=head, published_code=False)

    assert isinstance(imitation, KnownMask)
    for name, tensor in imitation(update).tensors.items():
        expected = np.where(defended.tensors[name].numpy() == 0, 0, update.tensors[name].numpy())
        np.testing.assert_array_equal(tensor.numpy(), expected)


def test_the_mask_says_the_share_it_keeps(head):
    observed = Update({"w": torch.tensor([[0.0, 1.0, 0.0, 2.0]]), "b": torch.tensor([[5.0]])})

    imitation = Sparsification.estimate(observed, head=head, published_code=False)

    assert str(imitation) == "known zero mask, 60.0% of the entries kept"


def test_the_published_code_prunes_again_by_the_share_of_zeros(head):
    observed = Update({"w": torch.tensor([[0.0, 1.0, 0.0]]), "b": torch.tensor([[0.0, 2.0]])})

    imitation = Sparsification.estimate(observed, head=head, published_code=True)

    assert imitation == Pruned(60.0)
    assert str(imitation) == "the smallest 60.0% of each tensor pruned again"


def test_the_published_code_counts_natural_zeros_too(head):
    observed = Update({"w": torch.tensor([[[0.0, 0.0], [3.0, 4.0]]])})

    imitation = Sparsification.estimate(observed, head=head, published_code=True)

    assert imitation.percent == 50.0


def test_an_update_of_zeros_can_be_imitated_by_the_published_code(head, observed, update):
    zeros = observed.map(torch.zeros_like)

    imitation = Sparsification.estimate(zeros, head=head, published_code=True)

    assert all(tensor.isfinite().all() for tensor in imitation(update).tensors.values())


@pytest.mark.parametrize("published_code", [False, True])
def test_the_imitation_takes_the_client_update_to_the_observed_one(published_code, head):
    # One tensor of 101 entries, so that the share of zeros is the very percentage.
    update = Update({"w": torch.randn(1, 101, generator=seeded(0), dtype=torch.float64)})
    defended = prune(update, 89.5)

    imitation = Sparsification.estimate(defended, head=head, published_code=published_code)

    assert torch.equal(imitation(update).tensors["w"], defended.tensors["w"])


@pytest.mark.parametrize("percent", [-1, 100, math.nan, "90", True])
def test_impossible_percentages_are_refused(percent):
    with pytest.raises(PlanError, match="Expected percent between 0 and"):
        Sparsification(percent=percent)
