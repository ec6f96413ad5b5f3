"""The recipe ``vae-gan``: a variational autoencoder, and a critic of what the prior draws."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from engine.generators.partners import (
    ConvolutionalCritic,
    ConvolutionalEncoder,
    Critic,
    Encoder,
)
from engine.generators.training import RECIPES, Trainer


@RECIPES.register("vae-gan")
class VaeGanTrainer(Trainer):
    """An autoencoder whose decoder is the generator; later a critic joins.

    A variational autoencoder (Kingma and Welling 2014) whose decoder is the generator gives latents
    that can represent unseen images; a conditional critic on images decoded from the prior (Larsen
    et al. 2016) makes what the prior draws look real. Between epochs, the prior of every class is
    fitted to the moments of its codes (:class:`~engine.generators.class_gaussian.ClassGaussian`).
    """

    # Squared error of the reconstructions, per pixel; KL divergence of the codes from N(0, I), in
    # nats an image; hinge loss of the critic: 2 when it tells nothing apart, 0 without one.
    figures: ClassVar = ("squared error", "divergence", "critic")

    def build_partners(self) -> None:
        convolutional = self.settings.partners == "convolutional"
        encoder = ConvolutionalEncoder if convolutional else Encoder
        critic: Any = ConvolutionalCritic if convolutional else Critic
        self.encoder = self.placed(
            encoder(self.image_shape, self.classes, self.settings.latent_dim)
        )
        self.critic = self.placed(critic(self.image_shape, self.classes))
        self.optimizer = torch.optim.Adam(
            [*self.generator.parameters(), *self.encoder.parameters()], self.settings.learning_rate
        )
        self.critic_optimizer = torch.optim.Adam(self.critic.parameters(), 4e-4, betas=(0.5, 0.99))

    def parts(self) -> dict[str, Any]:
        return {
            "encoder": self.encoder,
            "critic": self.critic,
            "optimizer": self.optimizer,
            "critic_optimizer": self.critic_optimizer,
        }

    def scheduled(self) -> tuple[torch.optim.Optimizer, ...]:
        return (self.optimizer,)

    def step(self, images: Tensor, labels: Tensor, rng: torch.Generator) -> Tensor:
        """Takes one step of generator and encoder, then one of the critic if it has joined."""
        adversarial = self.epoch >= self.settings.adversarial_after
        with self.lowered():
            mean, log_variance = (part.float() for part in self.encoder(images, labels))
            noise = self.randn(len(mean), rng)
            codes = mean + noise * (log_variance / 2).exp()
            if adversarial:
                latents = self.randn(len(mean), rng)
                codes = torch.cat([codes, self.generator.draw(latents, labels)])
                decoded = self.generator.decode(codes, torch.cat([labels, labels]))
                decoded, drawn = decoded.chunk(2)
            else:
                decoded = self.generator.decode(codes, labels)
        divergence = 0.5 * (mean**2 + log_variance.exp() - log_variance - 1).sum(1).mean()
        squared_error = (decoded.float() - images).square().mean()
        # The likelihood of a Gaussian decoder of the best common variance (Rybkin et al. 2021).
        loss = images[0].numel() / 2 * squared_error.log() + self.settings.beta * divergence
        if adversarial:
            loss = loss - self.settings.adversarial_weight * self._score(drawn, labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

        critic_loss = torch.zeros((), device=self.device)
        if adversarial:
            critic_loss = self._step_critic(images, drawn.detach(), labels)
        return torch.stack([squared_error, divergence, critic_loss]).detach()

    def _score(self, drawn: Tensor, labels: Tensor) -> Tensor:
        """Returns the critic's mean score of drawn images; its own slopes are not computed."""
        self.critic.requires_grad_(False)
        with self.lowered():
            score = self.critic(drawn, labels).float().mean()
        self.critic.requires_grad_(True)
        return score

    def _step_critic(self, real: Tensor, drawn: Tensor, labels: Tensor) -> Tensor:
        with self.lowered():
            scores = self.critic(torch.cat([real, drawn]), torch.cat([labels, labels])).float()
        real_scores, drawn_scores = scores.chunk(2)
        loss = (1 - real_scores).relu().mean() + (1 + drawn_scores).relu().mean()
        self.critic_optimizer.zero_grad()
        loss.backward()
        self.critic_optimizer.step()
        return loss

    @torch.no_grad()
    def end_epoch(self) -> None:
        """Fits the prior of every class to the moments of its codes."""
        self.encoder.eval()
        codes = []
        for images, labels in zip(self.images.split(2000), self.labels.split(2000), strict=True):
            placed = images.to(self.device).to(memory_format=self.layout()) / 255
            with self.lowered():
                moments = self.encoder(placed, labels.to(self.device))
            codes.append([moment.float() for moment in moments])
        means, log_variances = (torch.cat(part) for part in zip(*codes, strict=True))
        groups = self.generator.groups(self.labels.to(self.device))
        for generator in {self.generator, self.averaged}:
            generator.prior.fit(means, log_variances.exp(), groups)
        self.encoder.train()
