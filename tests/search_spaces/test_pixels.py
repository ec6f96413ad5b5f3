import pytest
import torch

from search_spaces import Source, make_space
from search_spaces.latent_spaces import JointLabelSpace, Pixels
from tests.conftest import seeded


def test_pixels_run_from_black_to_white_and_beyond():
    pixels = Pixels((1, 2, 2))

    images = pixels(torch.tensor([[-1.0, 0.0, 1.0, 3.0]]), torch.tensor([7]))

    assert pixels.latent_dim == 4
    assert images.tolist() == [[[[0.0, 0.5], [1.0, 2.0]]]]


def test_points_are_pixels_as_they_are_asked():
    space = make_space("pixels", latent_dim=12, images=2, source=_source((3, 2, 2), 2))
    points = 100 * torch.randn(4, 24, generator=seeded(0))

    assert space.image_shape == (3, 2, 2)
    assert torch.equal(space.to_latents(points, "normal"), points)


def test_a_generators_latents_are_no_pixels():
    space = make_space("pixels", latent_dim=4, source=Source(lambda latents, labels: latents))

    with pytest.raises(ValueError, match="Expected pixels for the space 'pixels', got a function"):
        _ = space.image_shape


def test_joint_labels_stand_behind_what_is_searched_in_either_view():
    gaussian = make_space("gaussian", latent_dim=2, images=1)
    space = JointLabelSpace(gaussian, 3)
    points = torch.tensor([[0.5, 0.1, 0.9, 0.5, 0.2]])

    assert (space.dim, space.views) == (5, gaussian.views)
    normal, unit = (space.to_latents(points, view) for view in ("normal", "unit"))
    assert torch.equal(normal, points)
    assert torch.equal(unit[:, :2], gaussian.to_latents(points[:, :2], "unit"))
    torch.testing.assert_close(torch.special.ndtr(unit[:, 2:]), points[:, 2:], atol=1e-5, rtol=0)


def _source(image_shape, images):
    return Source(Pixels(image_shape), labels=(0,) * images)
