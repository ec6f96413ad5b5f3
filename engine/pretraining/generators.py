"""Trains a generator on public images, measures it on others, and writes it with its cards."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.datasets import LabelledImages
from engine.generators.recipes import RECIPES
from engine.generators.training import EpochFigures, GeneratorTraining, Trainer
from engine.pretraining.cards import Made, write_weights
from engine.pretraining.pictures import save_samples
from engine.pretraining.public_data import PublicData
from engine.scoring.evaluation_classifier import EvaluationClassifier
from engine.scoring.frechet import frechet_distance
from engine.scoring.metrics import psnr
from engine.scoring.oracle import project
from engine.seeding import stream

PROJECTED_IMAGES = 200
CHUNK = 500  # Images that are drawn, projected or looked at together.


@dataclass(frozen=True, kw_only=True)
class Watch:
    """What a training calls while it runs.

    Attributes:
        on_batch: After every step.
        on_epoch: After every epoch, with the picture of samples drawn after it, if one was.
        samples_every: Epochs from one such picture to the next; 0 for none.
    """

    on_batch: Callable[[], None]
    on_epoch: Callable[[EpochFigures, Path | None], None]
    samples_every: int = 0


def pretrain_generator(
    data: PublicData,
    output: Path,
    settings: GeneratorTraining,
    *,
    classifier: EvaluationClassifier | None,
    made: Made,
    resume: bool,
    watch: Watch,
    measured: int = PROJECTED_IMAGES,
) -> dict[str, float]:
    """Trains a generator, measures it on the test images, and writes it with its cards.

    The state of the training is kept in ``output/training`` after every epoch, so that an
    interrupted one resumes.

    Returns:
        Its quality figures, see :func:`measure_generator`.
    """
    trainer: Trainer = RECIPES.get(settings.recipe)(
        data.train.images, data.train.labels, settings, torch.device(made.device)
    )
    if resume:
        trainer.resume(output / "training")
    while trainer.epoch < settings.epochs:
        epoch = trainer.run_epoch(watch.on_batch)
        trainer.save(output / "training")
        watch.on_epoch(epoch, _draw_samples(trainer, output, watch.samples_every))

    return write_generator(
        trainer, data, output, classifier=classifier, made=made, measured=measured
    )


def write_generator(
    trainer: Trainer,
    data: PublicData,
    output: Path,
    *,
    classifier: EvaluationClassifier | None,
    made: Made,
    measured: int = PROJECTED_IMAGES,
) -> dict[str, float]:
    """Measures what a trainer has come to, and writes it with its cards; returns the figures."""
    settings = trainer.settings
    generator = trainer.averaged.eval().requires_grad_(False)
    figures = measure_generator(
        generator, data.test, classifier, seed=settings.seed, projected=measured
    )
    generator.cpu()
    card = {
        "kind": "generator",
        "architecture": settings.architecture,
        "settings": _architecture_settings(settings, data),
        "training": asdict(settings),
        "epochs_done": trainer.epoch,
        "training_images": len(data.train.images),
        "seconds": round(trainer.seconds),
        "figures": figures,
    }
    write_weights(output / "generator.safetensors", generator, card, data, made)
    save_samples(generator, output / "generator.png", seed=settings.seed)
    return figures


def measure_generator(
    generator: Any,
    test: LabelledImages,
    classifier: EvaluationClassifier | None,
    *,
    seed: int,
    projected: int = PROJECTED_IMAGES,
) -> dict[str, float]:
    """Measures a generator on images it was not trained on, as far as it can be without a judge.

    It is measured where it is; the judge comes to it, and goes back to the CPU.

    Returns:
        ``oracle_psnr_db``: mean PSNR of the projections of ``projected_images`` test images, spread
        evenly over them, the ceiling of every audit; ``frechet_distance``: between drawn and test
        images in the evaluation classifier's features, lower is better; ``frechet_floor``: the same
        between two halves of the test images; ``recognised``, of a conditional generator: share of
        drawn images that the evaluation classifier takes for the class they were drawn for.
    """
    device = next(generator.parameters()).device
    images, labels = test.images.to(device), test.labels.to(device)
    count = min(projected, len(images))
    figures = {
        "oracle_psnr_db": _oracle_psnr(generator, images, labels, count, seed),
        "projected_images": count,
    }
    if classifier is None:
        return figures
    latents = torch.randn(len(images), generator.latent_dim, generator=stream(seed, "samples"))
    classifier.to(device)
    real, drawn, hits = _features(generator, classifier, images, labels, latents.to(device))
    classifier.cpu()
    halves = torch.randperm(len(images), generator=stream(seed, "halves")).chunk(2)
    figures |= {
        "frechet_distance": round(frechet_distance(drawn, real), 3),
        "frechet_floor": round(frechet_distance(real[halves[0]], real[halves[1]]), 3),
    }
    if getattr(generator, "conditional", True) and generator.classes > 1:
        figures["recognised"] = round(float(hits.float().mean()), 4)
    return figures


def _features(
    generator: Any,
    classifier: EvaluationClassifier,
    images: Tensor,
    labels: Tensor,
    latents: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns features ``(N, f)`` of real and drawn images, and which of these are recognised."""
    parts = []
    with torch.no_grad():
        for chunk in torch.arange(len(images)).split(CHUNK):
            drawn = generator(latents[chunk], labels[chunk])
            real_features = classifier.features(images[chunk] / 255)
            drawn_features = classifier.features(drawn)
            hits = classifier(drawn).argmax(1) == labels[chunk]
            parts.append((real_features, drawn_features, hits))
    real, fake, hit = (torch.cat(part) for part in zip(*parts, strict=True))
    return real, fake, hit


def _oracle_psnr(generator: Any, images: Tensor, labels: Tensor, count: int, seed: int) -> float:
    # Of a data set sorted by classes, the first ones would be of one class.
    rows = torch.arange(count) * len(images) // count
    truths = images[rows] / 255
    projection = project(
        generator,
        truths,
        labels[rows],
        latent_dim=generator.latent_dim,
        rng=stream(seed, "oracle"),
    )
    return round(float(psnr(projection.images, truths).mean()), 3)


def _architecture_settings(settings: GeneratorTraining, data: PublicData) -> dict[str, Any]:
    own: dict[str, Any] = {
        "latent_dim": settings.latent_dim,
        "classes": len(data.classes),
        "image_shape": list(data.image_shape),
        "width": settings.width,
    }
    return own if settings.conditional else {**own, "conditional": False}


def _draw_samples(trainer: Trainer, output: Path, every: int) -> Path | None:
    if not every or trainer.epoch % every:
        return None
    path = output / "samples" / f"epoch-{trainer.epoch:04d}.png"
    save_samples(trainer.averaged, path, seed=trainer.settings.seed)
    return path
