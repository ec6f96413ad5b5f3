import numpy as np
import torch

from engine.generators.class_gaussian import ClassGaussian
from tests.conftest import seeded

MEANS = torch.randn(60, 3, generator=seeded(0))
VARIANCES = torch.rand(60, 3, generator=seeded(1)) + 0.1
LABELS = torch.arange(60) % 2


def fitted():
    prior = ClassGaussian(2, 3)
    prior.fit(MEANS, VARIANCES, LABELS)
    return prior


def test_before_it_is_fitted_codes_are_latents():
    latents = torch.randn(4, 3, generator=seeded(2))

    assert torch.equal(ClassGaussian(2, 3)(latents, torch.tensor([0, 1, 1, 0])), latents)


def test_a_code_is_mean_plus_scale_times_latent():
    prior = fitted()
    latents, labels = torch.randn(5, 3, generator=seeded(2)), torch.tensor([1, 0, 0, 1, 1])

    codes = prior(latents, labels)

    for latent, label, code in zip(latents, labels, codes, strict=True):
        expected = prior.mean[label].numpy() + prior.scale[label].numpy() @ latent.numpy()
        np.testing.assert_allclose(code.numpy(), expected, rtol=1e-5, atol=1e-6)


def test_the_moments_are_those_of_the_mixture_of_the_codes_of_the_class():
    prior = fitted()

    for label in (0, 1):
        rows = torch.eq(LABELS, label)
        means, variances = MEANS[rows].numpy(), VARIANCES[rows].numpy()
        covariance = np.cov(means, rowvar=False) + np.diag(variances.mean(0))
        scale = prior.scale[label].numpy()
        np.testing.assert_allclose(prior.mean[label].numpy(), means.mean(0), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(scale @ scale.T, covariance, rtol=1e-4, atol=1e-5)
        assert np.allclose(np.triu(scale, 1), 0)


def test_drawn_codes_have_the_moments_of_their_class():
    prior = fitted()
    latents = torch.randn(50_000, 3, generator=seeded(3))

    codes = prior(latents, torch.ones(50_000, dtype=torch.long))

    scale = prior.scale[1]
    torch.testing.assert_close(codes.mean(0), prior.mean[1], rtol=0, atol=0.03)
    torch.testing.assert_close(torch.cov(codes.T), scale @ scale.T, rtol=0.03, atol=0.03)


def test_the_moments_are_part_of_the_weights():
    assert set(fitted().state_dict()) == {"mean", "scale"}
