"""Makes what an audit starts from, out of public images: generator, judge, target weights, targets.

Each ``pretrain_*`` function writes safetensors and two cards beside them: JSON, which the loaders
read, and Markdown with a picture, which people read.
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from engine.checkpoints import file_sha256
from engine.federation.target_models import make_target_model
from engine.federation.training import accuracy, train_classifier
from engine.generators.public_images import CLASSES, IMAGE_SHAPE
from engine.generators.training import EpochFigures, GeneratorTraining
from engine.generators.vae_gan import VaeGanTrainer as Trainer
from engine.scoring.evaluation_classifier import EvaluationClassifier
from engine.scoring.frechet import frechet_distance
from engine.scoring.metrics import psnr
from engine.scoring.oracle import project
from engine.seeding import stream, stream_seed

DATA = "Fashion-MNIST (Xiao, Rasul and Vollgraf 2017, https://github.com/zalandoresearch/fashion-mnist)"
LICENCE = "MIT"
PROJECTED_IMAGES = 200
TARGETS_PER_CLASS, DISTRACTORS_PER_CLASS = 4, 99


@dataclass(frozen=True, kw_only=True)
class PublicData:
    """Both splits of a public data set.

    Attributes:
        train: Images ``(N, ch, H, W)`` as uint8 and labels ``(N,)``.
        test: The same, disjoint from ``train``.
    """

    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


@dataclass(frozen=True, kw_only=True)
class Made:
    """How something was made, for its card.

    Attributes:
        command: The command line that makes it again.
        seed: Root of its randomness.
        device: Where it was made.
    """

    command: str
    seed: int
    device: str


def pretrain_generator(
    data: PublicData,
    output: Path,
    settings: GeneratorTraining,
    *,
    classifier: EvaluationClassifier,
    made: Made,
    resume: bool,
    on_batch: Callable[[], None],
    on_epoch: Callable[[EpochFigures], None],
) -> dict[str, float]:
    """Trains a generator, measures it on the test images, and writes it with its cards.

    The state of the training is kept in ``output/training`` after every epoch, so that an
    interrupted one resumes.

    Returns:
        Its quality figures, see :func:`measure_generator`.
    """
    device = torch.device(made.device)
    trainer = Trainer(*data.train, settings, device)
    if resume:
        trainer.resume(output / "training")
    while trainer.epoch < settings.epochs:
        on_epoch(trainer.run_epoch(on_batch))
        trainer.save(output / "training")

    generator = trainer.generator.cpu().eval().requires_grad_(False)
    figures = measure_generator(generator, data.test, classifier, seed=settings.seed)
    card = {
        "kind": "generator",
        "architecture": settings.architecture,
        "settings": {
            "latent_dim": settings.latent_dim,
            "classes": CLASSES,
            "image_shape": list(IMAGE_SHAPE),
            "width": settings.width,
        },
        "training": asdict(settings),
        "training_images": len(data.train[0]),
        "seconds": round(trainer.seconds),
        "figures": figures,
    }
    _write(output / "generator.safetensors", generator, card, made)
    save_samples(generator, output / "generator.png", seed=settings.seed)
    return figures


def measure_generator(
    generator: Any, test: tuple[Tensor, Tensor], classifier: EvaluationClassifier, *, seed: int
) -> dict[str, float]:
    """Measures a generator on images it was not trained on.

    Returns:
        ``oracle_psnr_db``: mean PSNR of the projections of ``PROJECTED_IMAGES`` test images, the
        ceiling of every audit; ``frechet_distance``: between drawn and test images in the
        evaluation classifier's features, lower is better; ``frechet_floor``: the same between two
        halves of the test images; ``recognised``: share of drawn images that the evaluation
        classifier takes for the class they were drawn for.
    """
    images, labels = test[0] / 255, test[1]
    latents = torch.randn(len(images), generator.latent_dim, generator=stream(seed, "samples"))
    chosen = slice(0, PROJECTED_IMAGES)
    projection = project(
        generator,
        images[chosen],
        labels[chosen],
        latent_dim=generator.latent_dim,
        rng=stream(seed, "oracle"),
    )
    with torch.no_grad():
        drawn = generator(latents, labels)
        real_features, drawn_features = classifier.features(images), classifier.features(drawn)
        recognised = (classifier(drawn).argmax(1) == labels).float().mean()
    halves = torch.randperm(len(images), generator=stream(seed, "halves")).chunk(2)
    return {
        "oracle_psnr_db": round(float(psnr(projection.images, images[chosen]).mean()), 3),
        "frechet_distance": round(frechet_distance(drawn_features, real_features), 3),
        "frechet_floor": round(
            frechet_distance(real_features[halves[0]], real_features[halves[1]]), 3
        ),
        "recognised": round(float(recognised), 4),
    }


def pretrain_classifier(
    data: PublicData, output: Path, *, epochs: int, made: Made, on_batch: Callable[[], None]
) -> dict[str, float]:
    """Trains the evaluation classifier and writes it with its cards; returns its accuracy."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(made.seed, "classifier"))
        classifier = EvaluationClassifier(image_shape=IMAGE_SHAPE, classes=CLASSES)
    card = {"kind": "evaluation classifier", "settings": {"classes": CLASSES}}
    return _pretrain(
        classifier, data, output / "classifier.safetensors", card, epochs, made, on_batch
    )


def pretrain_target_model(
    data: PublicData,
    output: Path,
    *,
    name: str,
    epochs: int,
    made: Made,
    on_batch: Callable[[], None],
) -> dict[str, float]:
    """Trains a target model and writes its weights with their cards; returns its accuracy."""
    model = make_target_model(name, image_shape=IMAGE_SHAPE, classes=CLASSES, seed=made.seed)
    card = {"kind": "target model", "architecture": name, "settings": {"classes": CLASSES}}
    path = output / f"{name}.safetensors"
    return _pretrain(model, data, path, card, epochs, made, on_batch)


def choose_private_images(data: PublicData, output: Path, *, made: Made) -> None:
    """Writes the first test images of every class as private images and distractors."""
    images, labels = data.test
    rows = [(labels == label).nonzero()[:, 0] for label in range(CLASSES)]
    # One of each class after the other, so that any number of targets is spread over the classes.
    targets = torch.stack([row[:TARGETS_PER_CLASS] for row in rows], dim=1).flatten()
    last = TARGETS_PER_CLASS + DISTRACTORS_PER_CLASS
    distractors = torch.cat([row[TARGETS_PER_CLASS:last] for row in rows])
    output.mkdir(parents=True, exist_ok=True)
    path = output / "private_images.safetensors"
    save_file(
        {
            "images": images[targets].contiguous(),
            "labels": labels[targets].contiguous(),
            "distractor_images": images[distractors].contiguous(),
            "distractor_labels": labels[distractors].contiguous(),
            "test_rows": targets.contiguous(),
            "distractor_test_rows": distractors.contiguous(),
        },
        path,
    )
    card = {
        "kind": "private images",
        "figures": {"targets": len(targets), "distractors": len(distractors)},
    }
    _write_cards(path, card, made)
    _save_grid(images[targets[: 2 * CLASSES]] / 255, path.with_suffix(".png"), columns=CLASSES)


def save_samples(generator: Any, path: Path, *, seed: int, rows: int = 8) -> None:
    """Writes a picture of drawn images, a column a class."""
    latents = torch.randn(rows * CLASSES, generator.latent_dim, generator=stream(seed, "picture"))
    with torch.no_grad():
        images = generator(latents, torch.arange(CLASSES).repeat(rows))
    _save_grid(images, path, columns=CLASSES)


def _pretrain(
    model: nn.Module,
    data: PublicData,
    path: Path,
    card: dict[str, Any],
    epochs: int,
    made: Made,
    on_batch: Callable[[], None],
) -> dict[str, float]:
    started = time.monotonic()
    device = torch.device(made.device)
    train_classifier(
        model, *data.train, epochs=epochs, seed=made.seed, device=device, on_batch=on_batch
    )
    model.cpu()
    figures = {
        "test_accuracy": round(accuracy(model, *data.test), 4),
        "training_accuracy": round(accuracy(model, *data.train), 4),
    }
    card["settings"]["image_shape"] = list(IMAGE_SHAPE)
    card |= {"training": {"epochs": epochs}, "training_images": len(data.train[0])}
    card |= {"seconds": round(time.monotonic() - started), "figures": figures}
    _write(path, model, card, made)
    return figures


def _write(path: Path, module: nn.Module, card: Mapping[str, Any], made: Made) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: t.contiguous() for name, t in module.state_dict().items()}, path)
    parameters = sum(tensor.numel() for tensor in module.state_dict().values())
    _write_cards(path, {**card, "parameters": parameters}, made)


def _write_cards(path: Path, card: Mapping[str, Any], made: Made) -> None:
    full = {
        **card,
        "file": path.name,
        "bytes": path.stat().st_size,
        "sha256": file_sha256(path),
        "data": DATA,
        "licence": LICENCE,
        **asdict(made),
        "torch": torch.__version__,
    }
    path.with_suffix(".json").write_text(json.dumps(full, indent=1) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(_markdown(full), encoding="utf-8")


def _markdown(card: Mapping[str, Any]) -> str:
    """Returns the card as a page a person reads."""
    title = f"# {str(card['kind']).capitalize()}: `{card['file']}`\n\n"
    drawn = card["kind"] in ("generator", "private images")
    picture = f"![{card['kind']}]({Path(card['file']).stem}.png)\n\n" if drawn else ""
    flat = {key: value for key, value in card.items() if key not in ("kind", "file", "figures")}
    figures = "".join(
        f"| {key.replace('_', ' ')} | {value} |\n" for key, value in card["figures"].items()
    )
    rows = "".join(f"| {key.replace('_', ' ')} | `{value}` |\n" for key, value in flat.items())
    return (
        f"{title}{picture}| figure | value |\n|---|---|\n{figures}\n"
        f"| made from | |\n|---|---|\n{rows}"
    )


def _save_grid(images: Tensor, path: Path, *, columns: int, zoom: int = 3) -> None:
    """Writes images ``(N, 1, H, W)`` in [0, 1] as one picture, ``columns`` to a row."""
    from PIL import Image  # Deferred: a training on a bare machine needs no pictures.

    count, _, height, width = images.shape
    rows = count // columns
    tiles = images[: rows * columns, 0].reshape(rows, columns, height, width)
    grid = tiles.permute(0, 2, 1, 3).reshape(rows * height, columns * width)
    picture = Image.fromarray((grid * 255).round().to(torch.uint8).numpy())
    picture.resize((columns * width * zoom, rows * height * zoom), Image.Resampling.NEAREST).save(
        path
    )
