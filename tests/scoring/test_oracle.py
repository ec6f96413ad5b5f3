import pytest
import torch

from engine.scoring.metrics import mse
from engine.scoring.oracle import project
from tests.conftest import IMAGE_SHAPE, LATENT_DIM, build, seeded

LABELS = torch.tensor([2, 0, 1])
PLANTED = torch.tensor([[0.3, -0.7, 0.9], [-1.1, 0.4, 0.0], [0.0, 1.5, -0.5]])


def projected(generator, truths, labels=LABELS, seed=0, **settings):
    return project(generator, truths, labels, latent_dim=LATENT_DIM, rng=seeded(seed), **settings)


def test_finds_planted_latents(generator):
    truths = generator(PLANTED, LABELS)

    found = projected(generator, truths)

    torch.testing.assert_close(found.latents, PLANTED, rtol=0, atol=0.01)
    assert (found.mse < 1e-5).all()


def test_says_the_errors_of_its_own_images(generator):
    truths = torch.rand(3, *IMAGE_SHAPE, generator=seeded(0))

    found = projected(generator, truths, steps=20)

    torch.testing.assert_close(found.images, generator(found.latents, LABELS))
    torch.testing.assert_close(found.mse, mse(found.images, truths))
    assert not found.images.requires_grad
    assert not found.latents.requires_grad


def test_no_prior_image_is_closer(generator):
    truths = torch.rand(3, *IMAGE_SHAPE, generator=seeded(0))

    found = projected(generator, truths)

    for row in range(3):
        latents = torch.randn(500, LATENT_DIM, generator=seeded(1))
        drawn = generator(latents, LABELS[row].expand(500))
        assert found.mse[row] <= mse(drawn, truths[row].expand_as(drawn)).min()


def test_the_best_restart_of_each_image_is_kept():
    class TwoValleys(torch.nn.Module):
        """From zero Adam rolls into the shallow valley near 1; the deep one is near -2."""

        def forward(self, latents, labels):
            z = latents[:, :, None, None]
            return 0.05 * (z - 1) ** 2 * (z + 2) ** 2 + 0.1 * (z + 2)

    truths, labels = torch.zeros(2, 1, 1, 1), torch.tensor([0, 0])
    settings = {"latent_dim": 1, "steps": 200}

    once = project(TwoValleys(), truths, labels, rng=seeded(0), restarts=1, **settings)
    often = project(TwoValleys(), truths, labels, rng=seeded(0), restarts=8, **settings)

    assert (once.latents > 0).all()
    assert (often.mse < 0.1 * once.mse).all()
    assert (often.latents < 0).all()


def test_equal_seeds_agree_and_the_truth_stays(generator):
    truths = torch.rand(3, *IMAGE_SHAPE, generator=seeded(0))
    before = truths.clone()

    first, second = (projected(generator, truths, steps=10) for _ in range(2))

    assert torch.equal(first.latents, second.latents)
    assert torch.equal(truths, before)


def test_works_where_gradients_are_switched_off(generator):
    with torch.no_grad():
        found = projected(generator, generator(PLANTED, LABELS), steps=50)

    assert (found.mse < 0.01).all()


@pytest.mark.parametrize("device", ["cpu", *(["cuda"] if torch.cuda.is_available() else [])])
def test_works_on_every_device_there_is(generator, device):
    truths = generator(PLANTED, LABELS)
    there = build(type(generator), 2).to(device)

    found = projected(there, truths.to(device), LABELS.to(device))

    torch.testing.assert_close(found.latents.cpu(), PLANTED, rtol=0, atol=0.01)
