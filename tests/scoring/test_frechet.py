import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from engine.scoring.frechet import frechet_distance
from tests.conftest import seeded


def features(seed, rows, columns, scale=1.0, shift=0.0):
    drawn = torch.randn(rows, columns, generator=seeded(seed))
    mixed = drawn @ torch.randn(columns, columns, generator=seeded(seed + 100))
    return scale * mixed + shift


@pytest.mark.parametrize(("rows", "columns"), [(50, 4), (200, 16), (9, 2)])
def test_equals_the_formula_with_the_matrix_root_of_scipy(rows, columns):
    first, second = features(0, rows, columns), features(1, rows + 3, columns, 1.5, 0.7)

    x, y = first.double().numpy(), second.double().numpy()
    cov_x, cov_y = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    gap = ((x.mean(0) - y.mean(0)) ** 2).sum()
    expected = gap + np.trace(cov_x + cov_y - 2 * sqrtm(cov_x @ cov_y).real)
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-6)


def test_of_shifted_features_is_the_squared_shift():
    first = features(0, 100, 3)

    assert frechet_distance(first, first + 2.0) == pytest.approx(12.0, rel=1e-4)


def test_of_independent_features_is_the_squared_difference_of_deviations():
    first = torch.tensor([[-1.0, 0.0], [1.0, 0.0], [0.0, 2.0], [0.0, -2.0]])

    # Variances 2/3 and 8/3, of which the deviations are tripled.
    assert frechet_distance(first, 3 * first) == pytest.approx(4 * (2 / 3 + 8 / 3))


def test_of_features_with_themselves_is_zero():
    first = features(0, 100, 8)

    assert frechet_distance(first, first) == pytest.approx(0, abs=1e-6)


def test_fewer_images_than_features_still_give_a_number():
    assert np.isfinite(frechet_distance(features(0, 5, 16), features(1, 6, 16)))
