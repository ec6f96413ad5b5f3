from itertools import permutations

import pytest
import torch

from engine.errors import InputError
from engine.scoring.assignment import assign
from tests.conftest import seeded

SHAPE = (2, 3, 4)


def least_error(images, truths):
    """The slow oracle: the least total squared error over all orders of the images."""
    return min(
        sum(
            float((images[place] - truth).square().sum())
            for place, truth in zip(order, truths, strict=True)
        )
        for order in permutations(range(len(truths)))
    )


@pytest.mark.parametrize("images", [1, 2, 3, 5])
def test_no_other_order_has_less_error(images):
    truths = torch.rand(images, *SHAPE, generator=seeded(images))
    drawn = torch.rand(20, images, *SHAPE, generator=seeded(images + 1))

    assigned = assign(drawn, truths)

    for before, after in zip(drawn, assigned, strict=True):
        total = float((after - truths).square().sum())
        assert total == pytest.approx(least_error(before, truths), rel=1e-5)
        rows = sorted(tuple(image.flatten().tolist()) for image in before)
        assert sorted(tuple(image.flatten().tolist()) for image in after) == rows


def test_shuffled_truths_come_back_in_their_order():
    truths = torch.rand(6, *SHAPE, generator=seeded(0))
    orders = torch.stack([torch.randperm(6, generator=seeded(seed)) for seed in range(10)])

    assigned = assign(truths[orders], truths)

    assert torch.equal(assigned, truths.expand(10, *truths.shape))


def test_the_total_counts_and_not_the_single_best_pair():
    truths = torch.tensor([0.0, 0.4])[:, None, None, None]
    images = torch.tensor([[0.35, 0.9]])[..., None, None, None]

    # 0.35 is nearest to 0.4, but then 0.9 would go with 0.0.
    assert assign(images, truths).flatten().tolist() == pytest.approx([0.35, 0.9])


def test_an_image_that_is_not_a_number_takes_the_place_the_others_leave():
    truths = torch.tensor([0.1, 0.5, 0.9])[:, None, None, None]
    images = torch.tensor([[float("nan"), 0.9, 0.1], [float("inf"), 0.5, 0.9]])[
        ..., None, None, None
    ]

    first, second = assign(images, truths).flatten(1)

    assert first[[0, 2]].tolist() == pytest.approx([0.1, 0.9])
    assert first[1].isnan()
    assert second[[1, 2]].tolist() == pytest.approx([0.5, 0.9])
    assert second[0].isinf()


def test_other_shapes_are_refused():
    with pytest.raises(InputError, match="Expected images of shape"):
        assign(torch.zeros(2, 1, 4, 4), torch.zeros(2, 1, 4, 4))
