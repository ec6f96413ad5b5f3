import copy
import dataclasses

import pytest
import torch

from engine.generators.recipes import RECIPES
from engine.generators.training import GeneratorTraining
from tests.conftest import seeded

SETTINGS = GeneratorTraining(
    recipe="wgan-gp",
    architecture="deconvolutional",
    latent_dim=2,
    width=8,
    epochs=3,
    critic_steps=3,
    batch_size=16,
    learning_rate=1e-3,
    seed=4,
)


def trainer_of(settings=SETTINGS, images=None):
    if images is None:
        images = (torch.rand(64, 1, 8, 8, generator=seeded(0)) * 255).to(torch.uint8)
    labels = torch.arange(len(images)) % 2
    return RECIPES.get("wgan-gp")(images, labels, settings, torch.device("cpu"))


def run(trainer, epochs):
    return [trainer.run_epoch(lambda: None) for _ in range(epochs)]


def weights_of(module):
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


def test_the_critic_takes_several_steps_to_one_of_the_generator():
    trainer = trainer_of()
    moved = []

    def note():
        moved.append(not torch.equal(weights_of(trainer.generator), moved_from[-1]))
        moved_from.append(weights_of(trainer.generator))

    moved_from = [weights_of(trainer.generator)]
    for _ in range(3):
        trainer.run_epoch(note)

    # Counted on from epoch to epoch, of four steps each.
    assert moved == [step % 3 == 2 for step in range(12)]


def test_a_critics_step_follows_the_stated_loss():
    trainer = trainer_of()
    images, labels = trainer.images / 255, trainer.labels
    critic, generator = copy.deepcopy(trainer.critic), copy.deepcopy(trainer.generator)

    figures = trainer.step(images, labels, seeded(9))

    rng = seeded(9)
    drawn = generator(torch.randn(64, 2, generator=rng), labels).detach()
    shares = torch.rand(64, 1, 1, 1, generator=rng)
    between = (drawn + shares * (images - drawn)).requires_grad_(True)
    norms = []
    for row in range(64):  # Image by image, where the recipe sums over the batch.
        score = critic(between[row, None], labels[row, None])[0]
        (slope,) = torch.autograd.grad(score, between, create_graph=True)
        norms.append(slope[row].square().sum().sqrt())
    penalty = (torch.stack(norms) - 1).square().mean()
    gap = critic(images, labels).mean() - critic(drawn, labels).mean()
    slopes = torch.autograd.grad(10 * penalty - gap, list(critic.parameters()))
    for parameter, slope in zip(trainer.critic.parameters(), slopes, strict=True):
        torch.testing.assert_close(parameter.grad, slope, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(figures, torch.stack([gap, penalty]))


def test_a_generators_step_raises_the_critics_score():
    trainer = trainer_of()
    critic, generator = trainer.critic, copy.deepcopy(trainer.generator)

    trainer._step_generator(trainer.labels, seeded(9))

    latents = torch.randn(64, 2, generator=seeded(9))
    score = critic(generator(latents, trainer.labels), trainer.labels).mean()
    slopes = torch.autograd.grad(-score, list(generator.parameters()))
    for parameter, slope in zip(trainer.generator.parameters(), slopes, strict=True):
        torch.testing.assert_close(parameter.grad, slope, rtol=1e-3, atol=1e-6)
    assert all(parameter.requires_grad for parameter in critic.parameters())


def test_the_prior_stays_the_standard_normal_one():
    trainer = trainer_of()
    run(trainer, 1)

    latents = torch.randn(5, 2, generator=seeded(1))
    assert torch.equal(trainer.generator.draw(latents, torch.zeros(5, dtype=torch.long)), latents)


def test_what_is_drawn_comes_near_to_images_of_one_brightness():
    images = torch.full((64, 1, 8, 8), 230, dtype=torch.uint8)
    settings = dataclasses.replace(
        SETTINGS, architecture="upsampling", width=16, epochs=30, learning_rate=5e-3, critic_steps=2
    )
    trainer = trainer_of(settings, images)
    run(trainer, 30)

    generator = trainer.generator.eval()
    drawn = generator(torch.randn(20, 2, generator=seeded(1)), torch.arange(20) % 2)
    assert drawn.mean() > 0.7


@pytest.mark.parametrize("before", [1, 2])
def test_a_resumed_training_equals_an_uninterrupted_one(before, tmp_path):
    settings = dataclasses.replace(SETTINGS, ema=0.9)
    whole, interrupted, resumed = (trainer_of(settings) for _ in range(3))
    figures = run(whole, 3)
    run(interrupted, before)
    interrupted.save(tmp_path)

    resumed.resume(tmp_path)

    assert run(resumed, 3 - before) == figures[before:]
    for name in ("generator", "critic", "averaged"):
        assert torch.equal(weights_of(getattr(resumed, name)), weights_of(getattr(whole, name)))
