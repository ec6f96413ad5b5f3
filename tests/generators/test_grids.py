import pytest

from engine.errors import PlanError
from engine.generators.grids import doublings, halved


@pytest.mark.parametrize(
    ("side", "expected"), [(8, 1), (12, 1), (28, 2), (32, 3), (64, 4), (96, 4), (128, 5), (9, 0)]
)
def test_a_grid_is_doubled_until_it_is_the_image(side, expected):
    assert doublings((3, side, side)) == expected


def test_the_shorter_and_the_odder_side_decide():
    assert doublings((1, 8, 64)) == 1
    assert doublings((1, 64, 36)) == 2


def test_some_doublings_can_be_asked_for_whatever_the_grid():
    assert doublings((1, 8, 8), at_least=2) == 2
    assert doublings((1, 32, 32), at_least=2) == 3


def test_sizes_that_cannot_be_doubled_are_refused():
    with pytest.raises(PlanError, match=r"divisible by 2, got 9 x 8. Use the architecture mlp"):
        doublings((1, 9, 8), at_least=1)


def test_channels_are_halved_but_never_to_none():
    assert halved(8, 5) == [8, 4, 2, 1, 1, 1]
