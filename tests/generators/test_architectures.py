import pytest
import torch

from engine.errors import PlanError
from engine.generators import GENERATORS
from tests.conftest import build, seeded
from tests.contracts.generator import GeneratorContract
from tests.datasets.layouts import TINY_BIGGAN, tiny_biggan


class TestMlp(GeneratorContract):
    name = "mlp"


class TestMlpOfOddImages(GeneratorContract):
    name = "mlp"
    image_shape = (3, 5, 7)


class TestDeconvolutional(GeneratorContract):
    name = "deconvolutional"


class TestDeconvolutionalInColour(GeneratorContract):
    name = "deconvolutional"
    image_shape = (3, 8, 12)


class TestUpsampling(GeneratorContract):
    name = "upsampling"


class TestUpsamplingInColour(GeneratorContract):
    name = "upsampling"
    image_shape = (3, 6, 10)


class TestBigGan(GeneratorContract):
    name = "biggan"
    image_shape = (3, 7, 7)
    # It is not trained here, and so has no codes to be trained by.
    test_generating_decodes_the_codes_of_the_class = None

    def make(self, seed=0):
        config = TINY_BIGGAN | {
            "output_dim": 8,
            "z_dim": 3,
            "num_classes": 4,
            "layers": [[True, 16, 8], [False, 8, 4], [False, 4, 2], [False, 2, 1]],
        }
        return build(lambda: tiny_biggan(config, self.image_shape), seed)


@pytest.mark.parametrize(
    ("architecture", "features"),
    [
        ("mlp", [(8,), (8,)]),
        ("deconvolutional", [(8, 2, 2), (4, 4, 4), (2, 8, 8)]),
        ("upsampling", [(8, 4, 4), (4, 8, 8)]),
    ],
)
def test_split_at_any_stage_it_makes_the_same_images(architecture, features):
    generator = build(
        lambda: GENERATORS.make(
            architecture, latent_dim=3, classes=4, image_shape=(1, 8, 8), width=8
        ),
        0,
    )
    latents, labels = torch.randn(5, 3, generator=seeded(1)), torch.tensor([0, 3, 1, 2, 3])

    assert generator.stages == len(features)
    for stage, shape in enumerate(features, start=1):
        made = generator.to_features(latents, labels, stage)
        assert made.shape == (5, *shape)
        assert (made >= 0).all()
        assert torch.equal(generator.from_features(made, labels, stage), generator(latents, labels))


@pytest.mark.parametrize("architecture", ["mlp", "deconvolutional", "upsampling"])
def test_without_condition_the_class_does_not_matter(architecture):
    generator = build(
        lambda: GENERATORS.make(
            architecture,
            latent_dim=3,
            classes=4,
            image_shape=(1, 8, 8),
            width=8,
            conditional=False,
        ),
        0,
    )
    latents = torch.randn(4, 3, generator=seeded(1))
    images = generator(latents, torch.tensor([0, 1, 2, 3]))

    assert generator.classes == 4
    assert torch.equal(images, generator(latents, torch.zeros(4, dtype=torch.long)))
    made = generator.to_features(latents, torch.tensor([3, 2, 1, 0]), 1)
    assert torch.equal(generator.from_features(made, torch.tensor([3, 2, 1, 0]), 1), images)


@pytest.mark.parametrize("architecture", ["deconvolutional", "upsampling"])
@pytest.mark.parametrize(("side", "places"), [(28, 7), (32, 4), (64, 4), (128, 4)])
def test_larger_images_start_from_as_few_places(architecture, side, places):
    generator = build(
        lambda: GENERATORS.make(
            architecture, latent_dim=3, classes=4, image_shape=(3, side, side), width=16
        ),
        0,
    )
    latents, labels = torch.randn(1, 3, generator=seeded(1)), torch.tensor([2])

    assert generator.to_features(latents, labels, 1).shape == (1, 16, places, places)
    assert generator(latents, labels).shape == (1, 3, side, side)


def test_the_upsampling_one_refuses_odd_sizes():
    with pytest.raises(PlanError, match=r"divisible by 2, got 9 x 8. Use the architecture mlp"):
        GENERATORS.make("upsampling", latent_dim=2, classes=2, image_shape=(1, 9, 8), width=8)


@pytest.mark.parametrize("image_shape", [(1, 10, 8), (1, 8, 6)])
def test_the_deconvolutional_one_refuses_sizes_it_cannot_double(image_shape):
    with pytest.raises(PlanError, match=r"divisible by 4, got .* Use the architecture mlp"):
        GENERATORS.make(
            "deconvolutional", latent_dim=2, classes=2, image_shape=image_shape, width=8
        )
