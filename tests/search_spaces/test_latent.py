import math

import pytest
import torch
from scipy.stats import norm

from search_spaces import GaussianLatentSpace, TanhLatentSpace, make_space
from search_spaces.latent import SPACES, RawLatentSpace

POINTS = torch.tensor([[0.0, 0.25, 0.5], [0.75, 1.0, 0.1]], dtype=torch.float64)


def test_the_normal_view_of_the_gaussian_space_is_the_latent_itself():
    points = torch.tensor([[0.0, -1.5, 4.99]])

    assert torch.equal(GaussianLatentSpace(3).to_latents(points, "normal"), points)


def test_the_normal_view_is_clamped_to_the_bound():
    points = torch.tensor([[-7.0, 5.5, 1.0]])

    assert GaussianLatentSpace(3).to_latents(points, "normal").tolist() == [[-5.0, 5.0, 1.0]]


def test_the_unit_view_is_the_inverse_of_the_truncated_normal_distribution():
    space = GaussianLatentSpace(3, bound=2.0)

    low = norm.cdf(-2.0)
    expected = norm.ppf(low + (1 - 2 * low) * POINTS.numpy())
    found = space.to_latents(POINTS, "unit")
    torch.testing.assert_close(found, torch.from_numpy(expected))
    assert found[0, 0].item() == pytest.approx(-2.0)
    assert found[1, 1].item() == pytest.approx(2.0)
    assert found[0, 2].item() == pytest.approx(0.0, abs=1e-12)


def test_the_corners_of_the_unit_cube_are_finite():
    corners = torch.tensor([[0.0, 1.0]], dtype=torch.float64)

    for space in (GaussianLatentSpace(2), TanhLatentSpace(2)):
        assert space.to_latents(corners, "unit").isfinite().all()


def test_the_tanh_space_squashes_into_the_open_cube():
    found = TanhLatentSpace(2).to_latents(torch.tensor([[0.0, 1.0]]), "normal")

    torch.testing.assert_close(found, torch.tensor([[0.0, math.tanh(1.0)]]))


def test_the_unit_view_of_the_tanh_space_is_linear():
    found = TanhLatentSpace(3).to_latents(POINTS, "unit")

    torch.testing.assert_close(found[0], torch.tensor([-1.0, -0.5, 0.0], dtype=torch.float64))


def test_the_raw_space_takes_points_as_they_are():
    points = torch.tensor([[1e3, -1e3]])

    assert torch.equal(RawLatentSpace(2).to_latents(points, "normal"), points)


def test_the_raw_space_has_no_unit_view():
    with pytest.raises(ValueError, match="a raw space has no bounds"):
        RawLatentSpace(2).to_latents(torch.zeros(1, 2), "unit")


@pytest.mark.parametrize("name", sorted(SPACES))
def test_points_are_not_modified(name):
    points = torch.full((2, 3), 9.0)

    make_space(name, 3).to_latents(points, "normal")

    assert torch.equal(points, torch.full((2, 3), 9.0))
    assert make_space(name, 3).dim == 3
