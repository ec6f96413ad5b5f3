"""The recipe ``wgan-gp``: a Wasserstein critic with a gradient penalty, as in the GGL paper."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from engine.generators.partners import ConvolutionalCritic
from engine.generators.training import RECIPES, Trainer


@RECIPES.register("wgan-gp")
class WganGpTrainer(Trainer):
    """A critic of Wasserstein distance with a gradient penalty, several steps to the generator's.

    After `Gulrajani et al. (2017) <https://arxiv.org/abs/1704.00028>`_, algorithm 1: the critic
    scores real images higher than drawn ones, while the norms of its gradients between the two are
    held at 1. Latents are drawn from N(0, I), which is the prior of every class.
    """

    # How much higher the critic scores real images than drawn ones, an estimate of their
    # Wasserstein distance; mean squared distance of its gradients' norms from 1.
    figures: ClassVar = ("wasserstein distance", "penalty")

    def build_partners(self) -> None:
        self.critic = self.placed(
            ConvolutionalCritic(self.image_shape, self.classes, norm=lambda layer: layer)
        )
        self.optimizer, self.critic_optimizer = (
            torch.optim.Adam(module.parameters(), self.settings.learning_rate, betas=(0.0, 0.9))
            for module in (self.generator, self.critic)
        )

    def parts(self) -> dict[str, Any]:
        return {
            "critic": self.critic,
            "optimizer": self.optimizer,
            "critic_optimizer": self.critic_optimizer,
        }

    def scheduled(self) -> tuple[torch.optim.Optimizer, ...]:
        return (self.optimizer, self.critic_optimizer)

    def end_epoch(self) -> None:
        """Does nothing: the prior stays N(0, I)."""

    def step(self, images: Tensor, labels: Tensor, rng: torch.Generator) -> Tensor:
        """Takes one step of the critic, and after ``critic_steps`` of them one of the generator."""
        with torch.no_grad():
            drawn = self._draw(labels, rng)
        with self.lowered():
            gap = self._scores(images, labels).mean() - self._scores(drawn, labels).mean()
        penalty = self._penalty(images, drawn, labels, rng)
        self.critic_optimizer.zero_grad()
        (self.settings.penalty * penalty - gap).backward()
        self.critic_optimizer.step()
        if (self.steps + 1) % self.settings.critic_steps == 0:
            self._step_generator(labels, rng)
        return torch.stack([gap, penalty]).detach()

    def _step_generator(self, labels: Tensor, rng: torch.Generator) -> None:
        self.critic.requires_grad_(False)
        with self.lowered():
            score = self._scores(self._draw(labels, rng), labels).mean()
        self.optimizer.zero_grad()
        (-score).backward()
        self.optimizer.step()
        self.critic.requires_grad_(True)

    def _draw(self, labels: Tensor, rng: torch.Generator) -> Tensor:
        with self.lowered():
            images: Tensor = self.generator(self.randn(len(labels), rng), labels)
        return images.float()

    def _scores(self, images: Tensor, labels: Tensor) -> Tensor:
        scores: Tensor = self.critic(images, labels)
        return scores.float()

    def _penalty(self, real: Tensor, drawn: Tensor, labels: Tensor, rng: torch.Generator) -> Tensor:
        """Returns the mean squared distance from 1 of the critic's gradients between the images.

        In single precision: a norm's slope takes second derivatives of the critic.
        """
        shares = torch.rand((len(real), 1, 1, 1), generator=rng, device=self.device)
        between = (shares * real + (1 - shares) * drawn).requires_grad_(True)
        scores = self.critic(between, labels).sum()
        (slopes,) = torch.autograd.grad(scores, between, create_graph=True)
        return (slopes.flatten(1).norm(dim=1) - 1).square().mean()
