"""Trains a generator on public images: what its recipes share.

A recipe is a :class:`Trainer` that says what one step is. Orders, schedule, average of the weights
and the state of an interrupted training are the same for all.
"""

import copy
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, Literal

import torch
from torch import Tensor, nn

from engine import validate
from engine.generators.base import GENERATORS
from engine.generators.training_state import load_training_state, save_training_state
from engine.registry import Registry
from engine.seeding import stream_seed

Partners = Literal["small", "convolutional"]
PARTNERS: Final = ("small", "convolutional")
PRECISIONS: Final = ("float32", "bfloat16")


@dataclass(frozen=True, kw_only=True)
class GeneratorTraining:
    """Everything that determines a trained generator, besides its images.

    Attributes:
        recipe: A name of ``RECIPES``.
        architecture: A name of ``GENERATORS``.
        conditional: Whether images depend on the class.
        latent_dim: Number of latent coordinates ``d``.
        width: The architecture's width.
        epochs: Passes over the images.
        partners: Encoder and critic of ``vae-gan``: small, or convolutional for colour or detail.
        adversarial_after: Epochs before the critic joins; ``epochs`` or more for none (vae-gan).
        adversarial_weight: Factor of the critic's score in the generator's loss (vae-gan).
        beta: Factor of the KL divergence between codes and their prior (vae-gan).
        penalty: Factor of the critic's gradient penalty (wgan-gp).
        critic_steps: Steps of the critic for one of the generator (wgan-gp).
        batch_size: Images a step.
        learning_rate: Of the generator at the start; decays to a hundredth by a cosine.
        ema: Decay, a step, of the average of the weights that is kept as the generator; 0 keeps
            the last weights.
        flips: Whether half of the images are mirrored.
        precision: ``bfloat16`` computes products in mixed precision.
        seed: Root of every random stream.
    """

    recipe: str = "vae-gan"
    architecture: str = "mlp"
    conditional: bool = True
    latent_dim: int = 32
    width: int = 512
    epochs: int = 40
    partners: Partners = "small"
    adversarial_after: int = 10
    adversarial_weight: float = 20.0
    beta: float = 1.0
    penalty: float = 10.0
    critic_steps: int = 5
    batch_size: int = 128
    learning_rate: float = 1e-3
    ema: float = 0.0
    flips: bool = False
    precision: Literal["float32", "bfloat16"] = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        validate.count(
            latent_dim=self.latent_dim,
            width=self.width,
            epochs=self.epochs,
            batch_size=self.batch_size,
            critic_steps=self.critic_steps,
        )
        validate.positive(learning_rate=self.learning_rate, beta=self.beta, penalty=self.penalty)
        validate.in_range(0, 0.99999, ema=self.ema)
        validate.choice(PARTNERS, partners=self.partners)
        validate.choice(PRECISIONS, precision=self.precision)
        RECIPES.get(self.recipe)
        GENERATORS.get(self.architecture)


@dataclass(frozen=True)
class EpochFigures:
    """What one epoch of training ended with.

    Attributes:
        epoch: Epochs done.
        values: Means over the epoch, by the names of the recipe's ``figures``.
    """

    epoch: int
    values: Mapping[str, float]


class Trainer(ABC):
    """A generator and its partners with their optimisers, trained epoch by epoch.

    Args:
        images: Public images ``(N, ch, H, W)`` as uint8.
        labels: Their classes ``(N,)``.
        settings: What to train, and how.
        device: Where to train.

    Attributes:
        figures: What a step returns, in its order.
        generator: What is being trained.
        classes: Number of classes that encoder and critic are to tell apart.
        steps: Steps taken, all epochs together.
        averaged: What is kept: the moving average of its weights, or itself without one.
    """

    figures: ClassVar[tuple[str, ...]]

    def __init__(
        self, images: Tensor, labels: Tensor, settings: GeneratorTraining, device: torch.device
    ) -> None:
        self.images, self.settings, self.device = images, settings, device
        # To the partners of a generator that is not conditional, all images are of one class.
        self.labels = labels if settings.conditional else torch.zeros_like(labels)
        channels, height, width = images.shape[1:]
        self.image_shape, self._classes = (channels, height, width), int(labels.max()) + 1
        self.classes = self._classes if settings.conditional else 1
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream_seed(settings.seed, "weights"))
            self.generator: Any = self.placed(self._new_generator())
            self.build_partners()
        self.averaged: Any = copy.deepcopy(self.generator) if settings.ema else self.generator
        self.epoch = self.steps = 0
        self.seconds = 0.0

    @abstractmethod
    def build_partners(self) -> None:
        """Makes the networks beside the generator, and all optimisers."""

    @abstractmethod
    def step(self, images: Tensor, labels: Tensor, rng: torch.Generator) -> Tensor:
        """Takes one step; returns its figures ``(len(figures),)``, detached.

        Args:
            images: ``(N, ch, H, W)`` in [0, 1].
            labels: ``(N,)``.
            rng: Draws on the device.
        """

    @abstractmethod
    def parts(self) -> dict[str, Any]:
        """Returns the modules and optimisers a resumed training needs, besides the average."""

    @abstractmethod
    def scheduled(self) -> tuple[torch.optim.Optimizer, ...]:
        """Returns the optimisers whose rate follows the schedule."""

    @abstractmethod
    def end_epoch(self) -> None:
        """Does what is done between epochs, on the averaged generator."""

    def run_epoch(self, on_batch: Callable[[], None]) -> EpochFigures:
        """Trains one epoch and returns its figures."""
        started = time.monotonic()
        rng = torch.Generator(self.device)
        rng.manual_seed(stream_seed(self.settings.seed, "epoch", self.epoch))
        order = torch.randperm(len(self.images), generator=rng, device=self.device).cpu()
        sums = torch.zeros(len(self.figures), device=self.device)
        batches = _batches(order, self.settings.batch_size)
        self.steps = self.epoch * len(batches)
        for step, rows in enumerate(batches):
            self._set_learning_rate(self.epoch + step / len(batches))
            sums += self.step(self._images(rows, rng), self.labels[rows].to(self.device), rng)
            self.steps += 1
            self._average()
            on_batch()
        self.epoch += 1
        self.end_epoch()
        self.seconds += time.monotonic() - started
        means = (sums / len(batches)).tolist()
        return EpochFigures(self.epoch, dict(zip(self.figures, means, strict=True)))

    def save(self, folder: Path) -> None:
        """Writes everything a resumed training needs, atomically."""
        progress = {"epoch": self.epoch, "seconds": self.seconds}
        save_training_state(folder, self._all_parts(), progress, settings=asdict(self.settings))

    def resume(self, folder: Path) -> None:
        """Continues from ``folder``; raises InputError if it holds another training."""
        progress = load_training_state(folder, self._all_parts(), settings=asdict(self.settings))
        self.epoch, self.seconds = int(progress["epoch"]), progress["seconds"]

    def placed(self, module: nn.Module) -> Any:
        """Returns a module on the device, in the layout of memory that is soonest there."""
        return module.to(self.device).to(memory_format=self.layout())

    def lowered(self) -> torch.autocast:
        """Returns the context in which products are done in the settings' precision."""
        return torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.settings.precision == "bfloat16"
        )

    def randn(self, count: int, rng: torch.Generator) -> Tensor:
        """Returns latents ``(count, d)`` of N(0, I)."""
        return torch.randn((count, self.settings.latent_dim), generator=rng, device=self.device)

    def _new_generator(self) -> Any:
        settings = {} if self.settings.conditional else {"conditional": False}
        return GENERATORS.make(
            self.settings.architecture,
            latent_dim=self.settings.latent_dim,
            classes=self._classes,
            image_shape=self.image_shape,
            width=self.settings.width,
            **settings,
        )

    def layout(self) -> Any:
        """Returns the layout of images in memory that is soonest in the settings' precision."""
        mixed = self.settings.precision == "bfloat16"
        return torch.channels_last if mixed else torch.preserve_format

    def _images(self, rows: Tensor, rng: torch.Generator) -> Tensor:
        images = self.images[rows].to(self.device).to(memory_format=self.layout()) / 255
        if not self.settings.flips:
            return images
        mirrored = torch.rand(len(rows), generator=rng, device=self.device) < 0.5
        return torch.where(mirrored[:, None, None, None], images.flip(3), images)

    def _all_parts(self) -> dict[str, Any]:
        average = {"averaged": self.averaged} if self.settings.ema else {}
        return {"generator": self.generator, **self.parts(), **average}

    @torch.no_grad()
    def _average(self) -> None:
        """Moves the average towards the weights; statistics of layers are taken as they are."""
        if not self.settings.ema:
            return
        for kept, new in zip(self.averaged.parameters(), self.generator.parameters(), strict=True):
            kept.lerp_(new, 1 - self.settings.ema)
        for kept, new in zip(self.averaged.buffers(), self.generator.buffers(), strict=True):
            kept.copy_(new)

    def _set_learning_rate(self, epoch: float) -> None:
        decay = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * epoch / self.settings.epochs))
        for optimizer in self.scheduled():
            for group in optimizer.param_groups:
                group["lr"] = self.settings.learning_rate * decay


RECIPES: Registry[Trainer] = Registry("training recipe")


def _batches(order: Tensor, size: int) -> list[Tensor]:
    """Splits rows into batches; a last single one, which has no variance, joins its neighbour."""
    batches = list(order.split(size))
    if len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches
