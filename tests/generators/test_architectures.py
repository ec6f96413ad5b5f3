import pytest

from engine.errors import PlanError
from engine.generators import GENERATORS
from tests.contracts.generator import GeneratorContract


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


@pytest.mark.parametrize("image_shape", [(1, 10, 8), (1, 8, 6)])
def test_the_deconvolutional_one_refuses_sizes_it_cannot_double(image_shape):
    with pytest.raises(PlanError, match=r"divisible by 4, got .* Use the architecture mlp"):
        GENERATORS.make(
            "deconvolutional", latent_dim=2, classes=2, image_shape=image_shape, width=8
        )
