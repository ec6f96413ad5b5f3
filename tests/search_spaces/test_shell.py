import math

import pytest
import torch
from scipy.stats import kstest

from search_spaces.latent_spaces import ShellLatentSpace
from tests.conftest import seeded


@pytest.mark.parametrize("latent_dim", [1, 3, 512])
@pytest.mark.parametrize("view", ["normal", "unit"])
def test_every_images_latent_lies_at_the_priors_radius(latent_dim, view):
    draw = torch.randn if view == "normal" else torch.rand
    points = draw(20, 2 * latent_dim, generator=seeded(0), dtype=torch.float64)

    latents = ShellLatentSpace(latent_dim, images=2).to_latents(points, view)

    norms = latents.unflatten(1, (2, latent_dim)).norm(dim=2)
    torch.testing.assert_close(norms, torch.full_like(norms, math.sqrt(latent_dim)))


def test_points_are_scaled_and_not_turned():
    points = torch.tensor([[3.0, 4.0], [-0.003, 0.004]], dtype=torch.float64)

    latents = ShellLatentSpace(2).to_latents(points, "normal")

    expected = math.sqrt(2) * torch.tensor([[0.6, 0.8], [-0.6, 0.8]], dtype=torch.float64)
    torch.testing.assert_close(latents, expected)


def test_points_too_far_to_be_squared_are_scaled_too():
    points = torch.tensor([[3e200, -4e200]], dtype=torch.float64)

    latents = ShellLatentSpace(2).to_latents(points, "normal")

    expected = math.sqrt(2) * torch.tensor([[0.6, -0.8]], dtype=torch.float64)
    torch.testing.assert_close(latents, expected)


def test_the_origin_goes_to_the_diagonal():
    space = ShellLatentSpace(4)

    for points, view in ((torch.zeros(1, 4), "normal"), (torch.full((1, 4), 0.5), "unit")):
        torch.testing.assert_close(space.to_latents(points, view), torch.ones(1, 4))


def test_uniform_points_are_uniform_on_the_sphere():
    # By Archimedes, a coordinate of a point of the ordinary sphere is uniform.
    points = torch.rand(20_000, 3, generator=seeded(0), dtype=torch.float64)

    latents = ShellLatentSpace(3).to_latents(points, "unit") / math.sqrt(3)

    for coordinate in latents.T:
        assert kstest(coordinate.numpy(), "uniform", args=(-1, 2)).pvalue > 1e-3
