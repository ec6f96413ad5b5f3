import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from search_spaces import Source, make_space
from search_spaces.latent_spaces.sensitivity import PROBES, STEP, sensitive_directions
from tests.conftest import seeded
from tests.search_spaces.conftest import Stretched, arguments_for

CPU = torch.device("cpu")
SCALES = (5.0, 3.0, 2.0, 1.0, 0.1)


def principal(generator, directions, labels=(0,)):
    return make_space(
        "principal",
        latent_dim=5,
        images=len(labels),
        source=Source(generator, labels),
        directions=directions,
    )


def test_a_linear_generators_principal_directions_are_its_singular_vectors():
    generator = Stretched(SCALES)

    found = sensitive_directions(generator, 0, 5, CPU)

    torch.testing.assert_close(
        found.squared, torch.tensor(SCALES).double().square(), rtol=1e-4, atol=1e-4
    )
    overlaps = (found.directions.T @ generator.directions.double()).abs()
    torch.testing.assert_close(overlaps, torch.eye(5).double(), rtol=0, atol=1e-3)


def test_directions_are_those_of_the_mean_squared_jacobian():
    # J = 2 z at z for pixels z^2: E[JᵀJ] = 4 I with the scales of each coordinate beside it.
    scales = torch.tensor([1.0, 3.0])

    def generate(latents, labels):
        return (scales * latents.square()).view(-1, 1, 1, 2)

    found = sensitive_directions(generate, 0, 2, CPU)

    places = torch.randn(PROBES // 4, 1, 2, generator=seeded(0)).double()
    expected = 4 * (scales.double() * places).square().mean(0).flatten()
    torch.testing.assert_close(found.squared, expected.flip(0), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.directions, torch.eye(2).double().flip(1))


@pytest.mark.parametrize(("latent_dim", "images"), [(5, 2040), (16, 2048)])
def test_a_known_number_of_images_is_made_once_a_class(latent_dim, images):
    generator = Stretched((1.0,) * latent_dim)

    for _ in range(2):
        sensitive_directions(generator, 0, latent_dim, CPU)
        sensitive_directions(generator, 1, latent_dim, CPU)

    assert generator.asked == 2 * images


def test_a_latent_of_more_coordinates_than_images_is_seen_at_one_place():
    asked = []

    def generate(latents, labels):
        asked.append(len(latents))
        return latents[:, :4].view(-1, 1, 2, 2)

    sensitive_directions(generate, 0, PROBES, CPU)

    assert sum(asked) == 2 * PROBES
    assert max(asked) <= 256


def test_images_are_only_made_when_a_point_is_mapped():
    generator = Stretched(SCALES)

    space = principal(generator, 2)
    assert generator.asked == 0

    space.to_latents(torch.zeros(1, 2), "normal")
    assert generator.asked > 0


def test_the_first_directions_change_the_images_most():
    generator = Stretched(SCALES)

    latents = principal(generator, 2).to_latents(torch.eye(2), "normal")

    change = generator(latents, torch.zeros(2, dtype=torch.long)).flatten(1).norm(dim=1)
    torch.testing.assert_close(change, torch.tensor([5.0, 3.0]), rtol=1e-3, atol=0)


def test_each_image_has_the_directions_of_its_class():
    generator = Stretched(SCALES)

    space = principal(generator, 2, labels=(0, 1, 0))
    first, second, third = space.to_latents(torch.ones(1, 6), "normal").unflatten(1, (3, 5))[0]

    assert torch.equal(first, third)
    torch.testing.assert_close(second.abs(), first.flip(0).abs(), rtol=1e-3, atol=1e-3)


def test_they_do_not_depend_on_the_seed():
    generator = Stretched(SCALES)
    spaces = [
        make_space("principal", latent_dim=5, source=Source(generator), seed=seed, directions=2)
        for seed in (0, 1)
    ]

    assert torch.equal(spaces[0].basis, spaces[1].basis)


@given(seed=st.integers(0, 2**63 - 1), latent_dim=st.integers(1, 6))
def test_as_many_directions_as_coordinates_span_everything(seed, latent_dim):
    generator = Stretched(tuple(0.5 + torch.rand(latent_dim, generator=seeded(seed)).numpy()), 3)
    for name in ("principal", "random_embedding"):
        space = make_space(
            name,
            latent_dim=latent_dim,
            source=Source(generator),
            seed=seed,
            directions=latent_dim,
        )
        points = torch.randn(4, latent_dim, generator=seeded(seed), dtype=torch.float64)

        latents = space.to_latents(points, "normal")

        # A rotation: of full rank, lengths kept.
        assert torch.linalg.matrix_rank(space.basis[0]) == latent_dim
        torch.testing.assert_close(latents.norm(dim=1), points.norm(dim=1))


@pytest.mark.parametrize("name", ["principal", "random_embedding"])
@pytest.mark.parametrize("latent_dim", [1, 8, 512])
def test_coordinates_are_standard_normal_along_orthonormal_directions(name, latent_dim):
    space = make_space(name, **arguments_for(name, latent_dim, 2))
    points = torch.randn(3, space.dim, generator=seeded(0), dtype=torch.float64)

    latents = space.to_latents(points, "normal")

    gram = space.basis.transpose(1, 2) @ space.basis
    torch.testing.assert_close(gram, torch.eye(space.directions).double().expand_as(gram))
    torch.testing.assert_close(latents.norm(dim=1), points.norm(dim=1))


def test_random_directions_differ_by_seed_and_by_image():
    spaces = [
        make_space("random_embedding", latent_dim=6, images=2, seed=seed, directions=2)
        for seed in (0, 0, 1)
    ]

    assert torch.equal(spaces[0].basis, spaces[1].basis)
    assert not torch.allclose(spaces[0].basis, spaces[2].basis)
    assert not torch.allclose(spaces[0].basis[0], spaces[0].basis[1])


def test_random_directions_are_uniform():
    bases = make_space("random_embedding", latent_dim=4, images=4000, directions=2).basis

    # E[v vᵀ] = I / d for every direction, with no preferred sign.
    for direction in bases.unbind(2):
        second = direction.T @ direction / 4000
        assert (second - torch.eye(4) / 4).abs().max() < 4 * 0.25 / math.sqrt(4000)
        assert direction.mean(0).abs().max() < 4 * 0.5 / math.sqrt(4000)


def test_the_step_of_a_difference_is_within_the_prior():
    assert 0.1 <= STEP <= 1
