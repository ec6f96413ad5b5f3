"""What every latent space promises, for every name a plan may give."""

import pytest
import torch

from search_spaces import make_space
from search_spaces.latent_spaces import SPACES, summaries
from tests.conftest import seeded
from tests.search_spaces.conftest import arguments_for, settings_for

ROWS = [(name, view) for name, space in SPACES.items() for view in space.views]
BOUNDED = [name for name, space in SPACES.items() if "unit" in space.views]
SUBSPACES = ["principal", "random_embedding"]
# The largest coordinate a latent may have; W's are 1 + 2 x of a normal x of at most 5.
LARGEST = {"box": 2.0, "tanh": 1.0, "w": 11.5}


def points_of(view, shape, seed=1):
    draw = torch.randn if view == "normal" else torch.rand
    return draw(shape, generator=seeded(seed), dtype=torch.float64)


@pytest.mark.parametrize(("name", "view"), ROWS)
@pytest.mark.parametrize("latent_dim", [1, 2, 7, 512])
@pytest.mark.parametrize("images", [1, 3])
def test_points_become_finite_latents_of_all_images(name, view, latent_dim, images):
    space = make_space(name, **arguments_for(name, latent_dim, images))

    points = points_of(view, (5, space.dim))
    latents = space.to_latents(points, view)

    searched = settings_for(name, latent_dim)["directions"] if name in SUBSPACES else latent_dim
    assert space.dim == images * searched
    assert latents.shape == (5, images * latent_dim)
    assert latents.dtype == points.dtype
    assert latents.isfinite().all()


@pytest.mark.parametrize(("name", "view"), ROWS)
def test_equal_points_give_equal_latents_alone_and_among_others(name, view):
    first, second = (make_space(name, **arguments_for(name, 6, 2)) for _ in range(2))
    points = points_of(view, (9, first.dim))

    together = first.to_latents(points, view)

    assert torch.equal(together, second.to_latents(points, view))
    torch.testing.assert_close(together[3:4], first.to_latents(points[3:4], view))


@pytest.mark.parametrize(("name", "view"), ROWS)
def test_points_are_not_modified(name, view):
    space = make_space(name, **arguments_for(name, 4))
    points = torch.full((2, space.dim), 9.0 if view == "normal" else 0.9)
    before = points.clone()

    space.to_latents(points, view)

    assert torch.equal(points, before)


@pytest.mark.parametrize(("name", "view"), ROWS)
def test_images_keep_to_themselves(name, view):
    space = make_space(name, **arguments_for(name, 4, 3))
    points = points_of(view, (2, space.dim))
    moved = points.clone()
    each = space.dim // 3
    moved[:, each : 2 * each] = points_of(view, (2, each), seed=2)

    before, after = (space.to_latents(some, view).unflatten(1, (3, 4)) for some in (points, moved))

    assert torch.equal(before[:, [0, 2]], after[:, [0, 2]])
    assert not torch.equal(before[:, 1], after[:, 1])


@pytest.mark.parametrize("name", sorted(set(BOUNDED) - {"random_embedding"}))
def test_images_of_one_class_are_mapped_alike(name):
    one = make_space(name, **arguments_for(name, 4))
    three = make_space(name, **arguments_for(name, 4, 3))
    points = points_of("unit", (5, one.dim))

    latents = three.to_latents(points.repeat(1, 3), "unit")

    torch.testing.assert_close(latents, one.to_latents(points, "unit").repeat(1, 3))


@pytest.mark.parametrize("name", BOUNDED)
@pytest.mark.parametrize("latent_dim", [1, 4])
def test_the_cubes_corners_and_centre_are_finite_and_in_bounds(name, latent_dim):
    space = make_space(name, **arguments_for(name, latent_dim))
    corners = torch.cartesian_prod(*[torch.tensor([0.0, 0.5, 1.0])] * space.dim)
    for dtype in (torch.float32, torch.float64):
        latents = space.to_latents(corners.view(-1, space.dim).to(dtype), "unit")

        assert latents.isfinite().all()
        assert latents.abs().max() <= LARGEST.get(name, 5 * latent_dim**0.5 + 1e-6)


@pytest.mark.parametrize("name", BOUNDED)
def test_no_point_of_the_normal_view_is_too_far(name):
    space = make_space(name, **arguments_for(name, 4))
    points = torch.tensor([[0.0], [1e300], [-1e300]], dtype=torch.float64).expand(-1, space.dim)

    latents = space.to_latents(points, "normal")

    assert latents.isfinite().all()
    assert latents.abs().max() <= LARGEST.get(name, 10.0 + 1e-6)


@pytest.mark.parametrize("name", ["gaussian", "box", "shell", "features", "w", *SUBSPACES])
def test_both_views_draw_from_one_distribution(name):
    space = make_space(name, **arguments_for(name, 4))
    draws = [
        space.to_latents(points_of(view, (60_000, space.dim)), view) for view in ("normal", "unit")
    ]

    for moment in (1, 2, 4):
        normal, unit = (some.pow(moment).mean(0) for some in draws)
        # Four standard errors of the difference of two means.
        error = (sum(some.pow(moment).var(0) for some in draws) / 60_000).sqrt()
        assert ((normal - unit).abs() <= 4 * error + 1e-9).all()


@pytest.mark.parametrize("name", SPACES)
def test_a_wrong_number_of_coordinates_is_refused(name):
    space = make_space(name, **arguments_for(name, 4))

    with pytest.raises(ValueError, match=rf"Expected points \(C, {space.dim}\), got \(2, 9\)"):
        space.to_latents(torch.zeros(2, 9), "normal")


@pytest.mark.parametrize("name", SPACES)
def test_unknown_settings_are_refused_by_name(name):
    with pytest.raises(ValueError, match=f"Unknown setting 'bounds' of the space '{name}'"):
        make_space(name, **arguments_for(name, 4), bounds=2)


@pytest.mark.parametrize("name", ["features", "principal", "w"])
def test_a_space_of_the_generator_needs_one(name):
    with pytest.raises(ValueError, match="Expected the generator for a"):
        make_space(name, latent_dim=4, **settings_for(name, 4))


@pytest.mark.parametrize("name", ["features", "principal", "w"])
def test_a_space_of_the_generator_needs_a_label_an_image(name):
    with pytest.raises(ValueError, match="Expected a label for each of 2 images"):
        make_space(name, **{**arguments_for(name, 4), "images": 2})


@pytest.mark.parametrize("name", SUBSPACES)
@pytest.mark.parametrize("directions", [0, 5, 1.5, True, "4"])
def test_more_directions_than_coordinates_are_refused(name, directions):
    with pytest.raises(ValueError, match=r"Expected directions between 1 and 4.*got directions="):
        make_space(name, **{**arguments_for(name, 4), "directions": directions})


@pytest.mark.parametrize("name", SUBSPACES)
def test_a_subspace_needs_its_number_of_directions(name):
    with pytest.raises(ValueError, match=f"The space '{name}' needs a value for: directions"):
        make_space(name, latent_dim=4)


def test_an_unknown_space_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match=r"one of: box, .*got 'gausian'. Did you mean 'gaussian'"):
        make_space("gausian", latent_dim=4)


def test_every_space_is_summed_up_with_its_settings():
    assert list(summaries()) == sorted(SPACES)
    assert summaries()["box"].endswith("Settings: half_width=2.")
    assert summaries()["principal"].endswith("Settings: directions.")
    assert summaries()["features"].endswith("Settings: stage=2, directions=64.")
    assert summaries()["raw"].endswith("Settings: none.")
    assert all("\n" not in line for line in summaries().values())
