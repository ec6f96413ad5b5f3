"""Trains a class-conditional generator on public images.

A variational autoencoder (Kingma and Welling 2014) whose decoder is the generator gives latents
that can represent unseen images; a conditional critic on images decoded from the prior (Larsen et
al. 2016) makes what the prior draws look real. Between epochs, the prior of every class is fitted
to the moments of its codes (:class:`~engine.generators.class_gaussian.ClassGaussian`).
"""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from engine import validate
from engine.generators.base import GENERATORS
from engine.generators.training_state import load_training_state, save_training_state
from engine.seeding import stream_seed


@dataclass(frozen=True, kw_only=True)
class GeneratorTraining:
    """Everything that determines a trained generator, besides its images.

    Attributes:
        architecture: A name of ``GENERATORS``.
        latent_dim: Number of latent coordinates ``d``.
        width: The architecture's width.
        epochs: Passes over the images.
        adversarial_after: Epochs before the critic joins; ``epochs`` or more for none.
        adversarial_weight: Factor of the critic's score in the generator's loss.
        beta: Factor of the KL divergence between codes and their prior.
        batch_size: Images a step.
        learning_rate: Of generator and encoder at the start; decays to a hundredth by a cosine.
        seed: Root of every random stream.
    """

    architecture: str = "mlp"
    latent_dim: int = 32
    width: int = 512
    epochs: int = 40
    adversarial_after: int = 10
    adversarial_weight: float = 20.0
    beta: float = 1.0
    batch_size: int = 128
    learning_rate: float = 1e-3
    seed: int = 0

    def __post_init__(self) -> None:
        validate.count(
            latent_dim=self.latent_dim,
            width=self.width,
            epochs=self.epochs,
            batch_size=self.batch_size,
        )
        validate.positive(learning_rate=self.learning_rate, beta=self.beta)
        GENERATORS.get(self.architecture)


@dataclass(frozen=True)
class EpochFigures:
    """What one epoch of training ended with.

    Attributes:
        epoch: Epochs done.
        squared_error: Mean squared error of the reconstructions, per pixel.
        divergence: KL divergence of the codes from N(0, I), in nats an image.
        critic_loss: Hinge loss of the critic; 2 when it tells nothing apart, 0 without one.
    """

    epoch: int
    squared_error: float
    divergence: float
    critic_loss: float


class Encoder(nn.Module):
    """Images and labels to the mean and log-variance of their codes."""

    def __init__(self, image_shape: tuple[int, int, int], classes: int, latent_dim: int) -> None:
        super().__init__()
        self.classes = classes
        self.layers = nn.Sequential(
            nn.Linear(math.prod(image_shape) + classes, 512),
            nn.BatchNorm1d(512),
            nn.ReLU(),
            nn.Linear(512, 512),
            nn.BatchNorm1d(512),
            nn.ReLU(),
            nn.Linear(512, 2 * latent_dim),
        )

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Returns means and log-variances ``(N, d)`` of images ``(N, ch, H, W)``."""
        classes = nn.functional.one_hot(labels, self.classes).to(images)
        mean, log_variance = self.layers(torch.cat([images.flatten(1), classes], 1)).chunk(2, 1)
        return mean, log_variance


class Critic(nn.Module):
    """Images and labels to a score, higher for real: a projection discriminator.

    After `Miyato and Koyama (2018) <https://arxiv.org/abs/1802.05637>`_.
    """

    def __init__(self, image_shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        channels, height, width = image_shape
        grid = 32 * math.ceil(height / 4) * math.ceil(width / 4)
        self.layers = nn.Sequential(
            spectral_norm(nn.Conv2d(channels, 16, 5, stride=2, padding=2)),
            nn.LeakyReLU(0.2),
            spectral_norm(nn.Conv2d(16, 32, 5, stride=2, padding=2)),
            nn.LeakyReLU(0.2),
            nn.Flatten(),
            spectral_norm(nn.Linear(grid, 128)),
            nn.LeakyReLU(0.2),
        )
        self.score = spectral_norm(nn.Linear(128, 1))
        self.classes = spectral_norm(nn.Embedding(classes, 128))

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Returns scores ``(N,)`` of images ``(N, ch, H, W)``."""
        features = self.layers(images)
        return self.score(features)[:, 0] + (features * self.classes(labels)).sum(1)


class Trainer:
    """Generator, encoder and critic with their optimisers, trained epoch by epoch.

    Args:
        images: Public images ``(N, ch, H, W)`` as uint8.
        labels: Their classes ``(N,)``.
        settings: What to train, and how.
        device: Where to train.
    """

    def __init__(
        self, images: Tensor, labels: Tensor, settings: GeneratorTraining, device: torch.device
    ) -> None:
        self.images, self.labels, self.settings, self.device = images, labels, settings, device
        channels, height, width = images.shape[1:]
        shape, classes = (channels, height, width), int(labels.max()) + 1
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream_seed(settings.seed, "weights"))
            self.generator = GENERATORS.make(
                settings.architecture,
                latent_dim=settings.latent_dim,
                classes=classes,
                image_shape=shape,
                width=settings.width,
            ).to(device)
            self.encoder = Encoder(shape, classes, settings.latent_dim).to(device)
            self.critic = Critic(shape, classes).to(device)
        self.optimizer = torch.optim.Adam(
            [*self.generator.parameters(), *self.encoder.parameters()], settings.learning_rate
        )
        self.critic_optimizer = torch.optim.Adam(self.critic.parameters(), 4e-4, betas=(0.5, 0.99))
        self.epoch = 0
        self.seconds = 0.0

    def run_epoch(self, on_batch: Callable[[], None]) -> EpochFigures:
        """Trains one epoch, fits the prior, and returns the epoch's figures."""
        started = time.monotonic()
        rng = torch.Generator(self.device)
        rng.manual_seed(stream_seed(self.settings.seed, "epoch", self.epoch))
        order = torch.randperm(len(self.images), generator=rng, device=self.device).cpu()
        sums = torch.zeros(3, device=self.device)
        batches = _batches(order, self.settings.batch_size)
        for step, rows in enumerate(batches):
            self._set_learning_rate(self.epoch + step / len(batches))
            images = self.images[rows].to(self.device) / 255
            sums += self._step(images, self.labels[rows].to(self.device), rng)
            on_batch()
        self.epoch += 1
        self._fit_prior()
        self.seconds += time.monotonic() - started
        squared_error, divergence, critic_loss = (sums / len(batches)).tolist()
        return EpochFigures(self.epoch, squared_error, divergence, critic_loss)

    def save(self, folder: Path) -> None:
        """Writes everything a resumed training needs, atomically."""
        progress = {"epoch": self.epoch, "seconds": self.seconds}
        save_training_state(folder, self._parts(), progress, settings=asdict(self.settings))

    def resume(self, folder: Path) -> None:
        """Continues from ``folder``; raises InputError if it holds another training."""
        progress = load_training_state(folder, self._parts(), settings=asdict(self.settings))
        self.epoch, self.seconds = int(progress["epoch"]), progress["seconds"]

    def _parts(self) -> dict[str, Any]:
        return {
            "generator": self.generator,
            "encoder": self.encoder,
            "critic": self.critic,
            "optimizer": self.optimizer,
            "critic_optimizer": self.critic_optimizer,
        }

    def _set_learning_rate(self, epoch: float) -> None:
        decay = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * epoch / self.settings.epochs))
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * decay

    def _step(self, images: Tensor, labels: Tensor, rng: torch.Generator) -> Tensor:
        """Takes one step of generator, encoder and critic; returns the three figures, ``(3,)``."""
        mean, log_variance = self.encoder(images, labels)
        noise = torch.randn(mean.shape, generator=rng, device=self.device)
        codes = mean + noise * (log_variance / 2).exp()
        divergence = 0.5 * (mean**2 + log_variance.exp() - log_variance - 1).sum(1).mean()
        adversarial = self.epoch >= self.settings.adversarial_after

        if adversarial:
            latents = torch.randn(mean.shape, generator=rng, device=self.device)
            codes = torch.cat([codes, self.generator.prior(latents, labels)])
            decoded = self.generator.decode(codes, torch.cat([labels, labels]))
            decoded, drawn = decoded.chunk(2)
        else:
            decoded = self.generator.decode(codes, labels)
        squared_error = (decoded - images).square().mean()
        # The likelihood of a Gaussian decoder of the best common variance (Rybkin et al. 2021).
        loss = images[0].numel() / 2 * squared_error.log() + self.settings.beta * divergence
        if adversarial:
            loss = loss - self.settings.adversarial_weight * self.critic(drawn, labels).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

        critic_loss = torch.zeros((), device=self.device)
        if adversarial:
            critic_loss = self._step_critic(images, drawn.detach(), labels)
        return torch.stack([squared_error, divergence, critic_loss]).detach()

    def _step_critic(self, real: Tensor, drawn: Tensor, labels: Tensor) -> Tensor:
        scores = self.critic(torch.cat([real, drawn]), torch.cat([labels, labels]))
        real_scores, drawn_scores = scores.chunk(2)
        loss = (1 - real_scores).relu().mean() + (1 + drawn_scores).relu().mean()
        self.critic_optimizer.zero_grad()
        loss.backward()
        self.critic_optimizer.step()
        return loss

    @torch.no_grad()
    def _fit_prior(self) -> None:
        self.encoder.eval()
        codes = [
            self.encoder(images.to(self.device) / 255, labels.to(self.device))
            for images, labels in zip(self.images.split(2000), self.labels.split(2000), strict=True)
        ]
        means, log_variances = (torch.cat(part) for part in zip(*codes, strict=True))
        self.generator.prior.fit(means, log_variances.exp(), self.labels.to(self.device))
        self.encoder.train()


def _batches(order: Tensor, size: int) -> list[Tensor]:
    """Splits rows into batches; a last single one, which has no variance, joins its neighbour."""
    batches = list(order.split(size))
    if len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches
