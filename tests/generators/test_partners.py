import pytest
import torch

from engine.generators.partners import ConvolutionalCritic, ConvolutionalEncoder
from tests.conftest import build, seeded

SHAPES = [(1, 8, 8), (3, 12, 20), (3, 33, 41), (3, 128, 128)]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_encoder_gives_a_mean_and_a_log_variance(shape):
    encoder = build(lambda: ConvolutionalEncoder(shape, 2, 5), 0)

    mean, log_variance = encoder(torch.rand(3, *shape), torch.tensor([0, 1, 0]))

    assert mean.shape == log_variance.shape == (3, 5)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_critic_scores_images_by_their_class(shape):
    critic = build(lambda: ConvolutionalCritic(shape, 2), 0)
    images = torch.rand(3, *shape, generator=seeded(0))

    first, second = (critic(images, torch.full((3,), label)) for label in (0, 1))

    assert first.shape == (3,)
    assert not torch.allclose(first, second)


def test_a_critic_of_one_class_looks_at_images_alone():
    critic = build(lambda: ConvolutionalCritic((1, 8, 8), 1, norm=lambda layer: layer), 0)

    assert critic.classes is None
    assert critic(torch.rand(4, 1, 8, 8), torch.zeros(4, dtype=torch.long)).shape == (4,)
    assert {name.split(".")[-1] for name in critic.state_dict()} == {"weight", "bias"}
