import math

import numpy as np
import pytest
import torch

from engine.attacks.regularisers import REGULARISERS, kl, none, norm, prior
from tests.conftest import seeded

LATENTS = torch.randn(6, 128, generator=seeded(0), dtype=torch.float64)


def test_kl_of_a_latent_of_zeros_is_about_eleven():
    assert float(kl(torch.zeros(1, 128))) == pytest.approx(11.01, abs=0.005)


def test_kl_equals_the_scalar_formula():
    for latent, mine in zip(LATENTS.numpy(), kl(LATENTS).tolist(), strict=True):
        mean = sum(latent) / 128
        variance = sum((entry - mean) ** 2 for entry in latent) / 128
        expected = -0.5 * (1 + math.log(variance + 1e-10) - mean**2 - variance)
        assert mine == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("latents", "value", "tolerance"),
    [
        (torch.randn(200, 128, generator=seeded(1)), 0.0078, 0.003),
        (2 * torch.randn(200, 128, generator=seeded(2)), 0.81, 0.05),
        (torch.rand(200, 128, generator=seeded(3)), 0.91, 0.02),
    ],
)
def test_kl_is_small_for_the_prior_alone(latents, value, tolerance):
    assert float(kl(latents).mean()) == pytest.approx(value, abs=tolerance)


def test_norm_is_the_squared_distance_of_the_squared_length_from_the_dimension():
    latents = torch.tensor([[1.0, 2.0, 0.0], [1.0, 1.0, 1.0], [0.0, 0.0, 0.0]])

    assert norm(latents).tolist() == [4.0, 0.0, 9.0]


def test_prior_is_the_squared_length():
    np.testing.assert_allclose(prior(LATENTS).numpy(), (LATENTS.numpy() ** 2).sum(1), rtol=1e-12)


def test_prior_is_twice_the_negative_log_density_up_to_a_constant():
    density = torch.distributions.Normal(0.0, 1.0).log_prob(LATENTS).sum(1)

    twice = -2 * density
    torch.testing.assert_close(prior(LATENTS) - prior(LATENTS)[0], twice - twice[0])


def test_none_is_zero():
    assert none(LATENTS).tolist() == [0.0] * 6


@pytest.mark.parametrize("name", sorted(REGULARISERS))
def test_regularisers_are_batched_and_pure(name):
    before = LATENTS.clone()

    together = REGULARISERS[name](LATENTS)

    assert torch.equal(LATENTS, before)
    for row in range(len(LATENTS)):
        torch.testing.assert_close(REGULARISERS[name](LATENTS[row, None])[0], together[row])
