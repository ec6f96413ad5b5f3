import pytest
import torch

from engine.generators import GENERATORS
from search_spaces import Source, make_space
from search_spaces.latent_spaces.features import (
    DRAWS,
    FeatureSynthesis,
    SplitGenerator,
    feature_directions,
    feature_synthesis,
)
from tests.conftest import build, seeded
from tests.search_spaces.conftest import Bent

CPU = torch.device("cpu")
# Of a mean of squares of many draws.
FOUR_ERRORS = 4 * (2 / DRAWS) ** 0.5


def made_of(architecture):
    settings = {"latent_dim": 3, "classes": 4, "image_shape": (1, 8, 8), "width": 8}
    return build(lambda: GENERATORS.make(architecture, **settings), 1).requires_grad_(False)


def space_of(generator, latent_dim, labels=(0,), **settings):
    return make_space(
        "features",
        latent_dim=latent_dim,
        images=len(labels),
        source=Source(generator, labels),
        **settings,
    )


def test_a_generator_that_can_be_split_is_known_by_its_parts(generator):
    assert isinstance(Bent(), SplitGenerator)
    assert not isinstance(generator, SplitGenerator)


@pytest.mark.parametrize(
    ("architecture", "stage"),
    [("mlp", 1), ("mlp", 2), ("deconvolutional", 1), ("deconvolutional", 3)],
)
def test_without_a_move_the_images_are_the_generators(architecture, stage):
    generator = made_of(architecture)
    latents, labels = torch.randn(6, 3, generator=seeded(0)), torch.tensor([0, 1, 2, 3, 1, 1])

    images = FeatureSynthesis(generator, stage, 5)(
        torch.cat([latents, torch.zeros(6, 5)], 1), labels
    )

    assert torch.equal(images, generator(latents, labels))


@pytest.mark.parametrize("architecture", ["mlp", "deconvolutional"])
def test_a_move_is_added_to_the_features_of_its_class(architecture):
    generator = made_of(architecture)
    latents, moves = torch.randn(4, 5, generator=seeded(0)).split([3, 2], dim=1)
    labels = torch.tensor([0, 2, 2, 1])

    images = FeatureSynthesis(generator, 2, 2)(torch.cat([latents, moves], 1), labels)

    for row, label in enumerate(labels.tolist()):
        first, second = feature_directions(generator, label, 2, 2, CPU).float()
        features = generator.to_features(latents[row, None], labels[row, None], 2)
        offset = moves[row, 0] * first + moves[row, 1] * second
        moved = features + offset.view_as(features)
        expected = generator.from_features(moved, labels[row, None], 2)
        torch.testing.assert_close(images[row, None], expected)


def test_directions_are_those_that_do_not_follow_the_latent():
    # Of its features, six follow the latent, two vary with its squares: those by 3 and by 1.
    generator = Bent()

    found = feature_directions(generator, 0, 1, 3, CPU)

    torch.testing.assert_close(
        found.norm(dim=1), torch.tensor([3.0, 1.0, 0.0]).double(), rtol=2 * FOUR_ERRORS, atol=1e-4
    )
    overlaps = (found[:2] / found[:2].norm(dim=1, keepdim=True)) @ generator.squares.T.double()
    torch.testing.assert_close(overlaps.abs(), torch.eye(2).double(), rtol=0, atol=0.1)


def test_directions_are_principal_components_of_what_a_regression_leaves():
    generator = made_of("deconvolutional")
    latents = torch.randn(DRAWS, 3, generator=seeded(0))
    features = generator.to_features(latents, torch.full((DRAWS,), 3), 2).flatten(1).double()

    found = feature_directions(generator, 3, 2, 6, CPU)

    # By another way than its own: centred, the latents' span projected out, decomposed whole.
    span = torch.linalg.qr((latents - latents.mean(0)).double()).Q
    features = features - features.mean(0)
    rest = features - span @ (span.T @ features)
    _, lengths, axes = torch.linalg.svd(rest, full_matrices=False)
    torch.testing.assert_close(found.norm(dim=1), lengths[:6] / (DRAWS - 4) ** 0.5)
    overlaps = (found / found.norm(dim=1, keepdim=True)) @ axes[:6].T
    torch.testing.assert_close(overlaps.abs(), torch.eye(6).double(), rtol=0, atol=1e-6)
    assert (found.gather(1, found.abs().argmax(1, keepdim=True)) > 0).all()


def test_directions_are_found_once_a_class_without_an_image():
    generator = Bent()
    synthesis = FeatureSynthesis(generator, 1, 2)

    for labels in ([0, 0], [0, 1], [1, 0]):
        synthesis(torch.ones(2, 4), torch.tensor(labels))

    # Besides: the features that were moved.
    assert generator.asked == {"features": 2 * DRAWS + 6, "images": 6}


def test_a_latent_of_more_coordinates_than_draws_is_told_apart_by_more():
    class Wide:
        latent_dim, stages = DRAWS, 1

        def to_features(self, latents, labels, stage):
            return torch.stack([latents[:, 0], latents[:, 1].square()], 1)

        from_features = __call__ = to_features

    lengths = feature_directions(Wide(), 0, 1, 2, CPU).norm(dim=1)

    # Of the square of a standard normal, whose variance is 2.
    torch.testing.assert_close(
        lengths, torch.tensor([2**0.5, 0.0]).double(), rtol=2 * FOUR_ERRORS, atol=1e-6
    )


@pytest.mark.parametrize("view", ["normal", "unit"])
def test_points_are_standard_normal_latents_and_moves(view):
    # So that the regularisers of the generator's prior hold for the moves.
    space = space_of(Bent(), 4, stage=1, directions=2)
    draw = torch.randn if view == "normal" else torch.rand
    points = draw(50_000, 4, generator=seeded(0), dtype=torch.float64)

    latents = space.to_latents(points, view)

    torch.testing.assert_close(torch.cov(latents.T), torch.eye(4).double(), rtol=0, atol=0.05)


def test_images_out_of_the_generators_range_are_in_that_of_its_features():
    # Its features are its pixels. The generator has no image of one square without the other.
    generator = Bent()
    labels = torch.zeros(1, dtype=torch.long)
    beyond = generator(torch.zeros(1, 2), labels) + 2 * generator.squares[0].view(1, 1, 2, 4)
    grid = torch.cartesian_prod(*[torch.linspace(-3, 3, 121)] * 2)
    plain = generator(grid, labels.expand(len(grid)))
    synthesis = FeatureSynthesis(generator, 1, 2)

    moves = torch.cartesian_prod(
        torch.zeros(1), torch.zeros(1), torch.linspace(-2, 2, 401), torch.zeros(1)
    )
    moved = synthesis(moves, labels.expand(len(moves)))

    nearest = [(some - beyond).flatten(1).norm(dim=1).min() for some in (plain, moved)]
    assert nearest[0] > 0.5
    assert nearest[1] < 0.1


def test_another_generator_is_refused(generator):
    with pytest.raises(ValueError, match="with to_features and from_features for the space 'feat"):
        space_of(generator, 4, directions=1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stage": 0}, "Expected stage between 1 and 1, the stages the generator has, got stage=0"),
        ({"stage": 2}, "Expected stage between 1 and 1, .* got stage=2"),
        ({"stage": True}, "Expected stage between 1 and 1, .* got stage=True"),
        ({"stage": 1.0}, "Expected stage between 1 and 1, .* got stage=1.0"),
        ({"directions": 0}, "Expected directions between 1 and 8, the features of that stage"),
        ({"directions": 9}, "Expected directions between 1 and 8, .* got directions=9"),
        ({"directions": "4"}, "Expected directions between 1 and 8, .* got directions='4'"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        feature_synthesis(Bent(), CPU, **{"stage": 1, "directions": 2, **settings})
    with pytest.raises(ValueError, match=message):
        space_of(Bent(), 4, **{"stage": 1, "directions": 2, **settings})


def test_another_number_of_coordinates_is_refused():
    with pytest.raises(ValueError, match="Expected latent_dim=4, 2 more than the generator's, got"):
        space_of(Bent(), 2, stage=1, directions=2)
