"""Commands that make what an audit starts from, out of public images."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import Progress as ProgressBar
from rich.progress import TaskID

if TYPE_CHECKING:
    from engine.pretraining import Made, PublicData

app = typer.Typer(
    help="Make a generator, an evaluation classifier, target weights or private images from "
    "Fashion-MNIST.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Data = Annotated[
    Path, typer.Option(help="Folder that holds Fashion-MNIST's idx files, gzipped or not.")
]
Download = Annotated[
    bool, typer.Option("--download", help="Let torchvision fetch Fashion-MNIST into --data.")
]
Output = Annotated[Path, typer.Option(help="Folder to write to.")]
Seed = Annotated[int, typer.Option(help="Root of all randomness.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]


@app.command()
def generator(
    data: Data = Path("data"),
    output: Output = Path("pretrained"),
    download: Download = False,
    architecture: Annotated[str, typer.Option(help="See `leaktune list generators`.")] = "mlp",
    latent_dim: Annotated[int, typer.Option(help="Latent coordinates.")] = 32,
    width: Annotated[int, typer.Option(help="Width of the architecture.")] = 512,
    epochs: Annotated[int, typer.Option(help="Passes over the 60,000 training images.")] = 40,
    adversarial_after: Annotated[
        int, typer.Option(help="Epochs before the critic joins; as many as --epochs for none.")
    ] = 10,
    classifier: Annotated[
        str, typer.Option(help="Evaluation classifier that judges samples: embedded, or a path.")
    ] = "fashion-mnist",
    seed: Seed = 0,
    device: Device = "auto",
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the training interrupted in --output.")
    ] = False,
) -> None:
    """Train a class-conditional generator and write it with its card and a picture of samples."""
    from engine.generators.training import EpochFigures, GeneratorTraining
    from engine.lab import weights_path
    from engine.pretraining import pretrain_generator
    from engine.scoring.evaluation_classifier import load_classifier

    settings = GeneratorTraining(
        architecture=architecture,
        latent_dim=latent_dim,
        width=width,
        epochs=epochs,
        adversarial_after=adversarial_after,
        seed=seed,
    )
    judge = load_classifier(weights_path(classifier, "classifier"))
    public = _load(data, download)
    steps = epochs * -(-len(public.train[0]) // settings.batch_size)
    with _bar("training the generator", steps) as (bar, task):

        def show(figures: EpochFigures) -> None:
            bar.update(task, completed=figures.epoch * steps / epochs)
            bar.console.print(
                f"epoch {figures.epoch}/{epochs}: squared error {figures.squared_error:.5f}, "
                f"divergence {figures.divergence:.1f} nats, critic {figures.critic_loss:.2f}",
                highlight=False,
            )

        figures = pretrain_generator(
            public,
            output,
            settings,
            classifier=judge,
            made=_made(seed, device),
            resume=resume,
            on_batch=lambda: bar.advance(task),
            on_epoch=show,
        )
    _show(figures, output)


@app.command()
def classifier(
    data: Data = Path("data"),
    output: Output = Path("pretrained"),
    download: Download = False,
    epochs: Annotated[int, typer.Option(help="Passes over the training images.")] = 10,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Train the evaluation classifier, which judges reconstructions and is never attacked with."""
    from engine.pretraining import pretrain_classifier

    public = _load(data, download)
    with _bar("training the classifier", epochs * -(-len(public.train[0]) // 128)) as (bar, task):
        figures = pretrain_classifier(
            public,
            output,
            epochs=epochs,
            made=_made(seed, device),
            on_batch=lambda: bar.advance(task),
        )
    _show(figures, output)


@app.command()
def target_model(
    data: Data = Path("data"),
    output: Output = Path("pretrained"),
    download: Download = False,
    name: Annotated[str, typer.Option(help="See `leaktune list models`.")] = "lenet",
    epochs: Annotated[int, typer.Option(help="Passes over the training images.")] = 3,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Train a target model; name its weights in a plan with target_model.weights."""
    from engine.pretraining import pretrain_target_model

    public = _load(data, download)
    with _bar(f"training {name}", epochs * -(-len(public.train[0]) // 128)) as (bar, task):
        figures = pretrain_target_model(
            public,
            output,
            name=name,
            epochs=epochs,
            made=_made(seed, device),
            on_batch=lambda: bar.advance(task),
        )
    _show(figures, output)


@app.command()
def private_images(
    data: Data = Path("data"), output: Output = Path("pretrained"), download: Download = False
) -> None:
    """Choose private images and distractors from the test images."""
    from engine.pretraining import choose_private_images

    choose_private_images(_load(data, download), output, made=_made(0, "cpu"))
    typer.echo(f"Written: {output / 'private_images.safetensors'}")


def _load(folder: Path, download: bool) -> "PublicData":
    from engine.generators.public_images import load_fashion_mnist
    from engine.pretraining import PublicData

    return PublicData(
        train=load_fashion_mnist(folder, "train", download=download),
        test=load_fashion_mnist(folder, "test", download=download),
    )


def _made(seed: int, device: str) -> "Made":
    from engine.pretraining import Made

    if device == "auto":
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
    return Made(command=_command(sys.argv[1:]), seed=seed, device=device)


def _command(words: Sequence[str]) -> str:
    """Returns the command line without this machine's folders, and as if not interrupted."""
    kept = [
        word
        for before, word in pairwise(["", *words])
        if not {before, word} & {"--data", "--output"} and word != "--resume"
    ]
    return " ".join(["leaktune", *kept])


@contextmanager
def _bar(title: str, steps: int) -> Iterator[tuple[ProgressBar, TaskID]]:
    with ProgressBar(console=Console(stderr=True)) as bar:
        yield bar, bar.add_task(title, total=steps)


def _show(figures: dict[str, float], output: Path) -> None:
    for name, value in figures.items():
        typer.echo(f"{name.replace('_', ' ')}: {value}")
    typer.echo(f"Written to {output}")
