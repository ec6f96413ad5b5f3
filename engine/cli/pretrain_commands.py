"""Commands that make what an audit starts from, out of public images."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress as ProgressBar
from rich.progress import TaskID

from engine.cli.pretrain_options import (
    DEFAULT_DATASET,
    Colour,
    Data,
    Device,
    Download,
    Name,
    Note,
    Output,
    Precision,
    Seed,
    Size,
    SkipUnreadable,
    load_public_data,
)

if TYPE_CHECKING:
    from engine.generators.training import GeneratorTraining
    from engine.pretraining import Made, PublicData, Watch
    from engine.tracking import TrainingTracker

app = typer.Typer(
    help="Make a generator, an evaluation classifier, target weights or private images from public "
    "images: a data set by name, or any folder of pictures.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

AS_SUITS = "As suits the images if not given."


@app.command()
def generator(
    data: Data = Path("data"),
    dataset: Name = DEFAULT_DATASET,
    output: Output = Path("pretrained"),
    download: Download = False,
    size: Size = None,
    colour: Colour = False,
    skip_unreadable: SkipUnreadable = False,
    note: Note = None,
    recipe: Annotated[str, typer.Option(help="vae-gan, or the paper's wgan-gp.")] = "vae-gan",
    architecture: Annotated[
        str | None, typer.Option(help=f"See `leaktune list generators`. {AS_SUITS}")
    ] = None,
    unconditional: Annotated[
        bool, typer.Option("--unconditional", help="Images do not depend on the class.")
    ] = False,
    latent_dim: Annotated[int | None, typer.Option(help=f"Latent coordinates. {AS_SUITS}")] = None,
    width: Annotated[int | None, typer.Option(help=f"Of the architecture. {AS_SUITS}")] = None,
    epochs: Annotated[int | None, typer.Option(help=f"Passes over the images. {AS_SUITS}")] = None,
    partners: Annotated[
        str | None,
        typer.Option(help=f"vae-gan's encoder, critic: small, convolutional. {AS_SUITS}"),
    ] = None,
    adversarial_after: Annotated[
        int | None,
        typer.Option(help="vae-gan: epochs before the critic joins; as many as --epochs for none."),
    ] = None,
    adversarial_weight: Annotated[
        float | None, typer.Option(help="vae-gan: weight of the critic's score.")
    ] = None,
    critic_steps: Annotated[
        int | None, typer.Option(help="wgan-gp: critic's steps for one of the generator.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help=f"Images a step. {AS_SUITS}")] = None,
    learning_rate: Annotated[float | None, typer.Option(help=f"At the start. {AS_SUITS}")] = None,
    ema: Annotated[
        float | None,
        typer.Option(help=f"Decay of the average of weights kept; 0: none. {AS_SUITS}"),
    ] = None,
    flips: Annotated[
        bool | None, typer.Option("--flips/--no-flips", help=f"Mirror half of them. {AS_SUITS}")
    ] = None,
    precision: Precision = None,
    classifier: Annotated[
        str | None,
        typer.Option(
            help="Evaluation classifier that judges samples: an embedded data set's, or a path. "
            "If not given, the data set's embedded one, or the one in --output."
        ),
    ] = None,
    samples_every: Annotated[
        int, typer.Option(help="Epochs between pictures of samples in --output; 0 for none.")
    ] = 5,
    projected_images: Annotated[
        int, typer.Option(min=1, help="Test images that the oracle PSNR is the mean of.")
    ] = 200,
    tracking: Annotated[
        str | None, typer.Option(help="MLflow's URI to record it at, e.g. sqlite:///mlflow.db.")
    ] = None,
    experiment: Annotated[str, typer.Option(help="MLflow experiment.")] = "leaktune-pretrain",
    seed: Seed = 0,
    device: Device = "auto",
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the training interrupted in --output.")
    ] = False,
) -> None:
    """Train a generator and write it with its card and a picture of samples."""
    from engine.generators.recipes import suited_training
    from engine.pretraining import find_judge, pretrain_generator

    public = load_public_data(
        data,
        dataset,
        download=download,
        size=size,
        colour=colour,
        skip_unreadable=skip_unreadable,
        note=note,
    )
    settings = suited_training(
        public.image_shape,
        recipe=recipe,
        architecture=architecture,
        conditional=not unconditional,
        latent_dim=latent_dim,
        width=width,
        epochs=epochs,
        partners=partners,
        adversarial_after=adversarial_after,
        adversarial_weight=adversarial_weight,
        critic_steps=critic_steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        ema=ema,
        flips=flips,
        precision=precision,
        seed=seed,
    )
    judge = find_judge(classifier, public, dataset=dataset, output=output)
    tracker = _tracker(tracking, experiment, output, settings, resume)
    with _watched(settings, public, tracker, samples_every) as watch:
        figures = pretrain_generator(
            public,
            output,
            settings,
            classifier=judge,
            made=_made(seed, device),
            resume=resume,
            watch=watch,
            measured=projected_images,
        )
    if tracker is not None:
        _told(lambda: tracker.finish(figures, settings.epochs, output / "generator.md"))
    _show(figures, output)


@app.command()
def classifier(
    data: Data = Path("data"),
    dataset: Name = DEFAULT_DATASET,
    output: Output = Path("pretrained"),
    download: Download = False,
    size: Size = None,
    colour: Colour = False,
    skip_unreadable: SkipUnreadable = False,
    note: Note = None,
    epochs: Annotated[int, typer.Option(help="Passes over the training images.")] = 10,
    architecture: Annotated[
        str | None, typer.Option(help=f"convolutional or deep. {AS_SUITS}")
    ] = None,
    precision: Precision = None,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Train the evaluation classifier, which judges reconstructions and is never attacked with."""
    from engine.pretraining import pretrain_classifier, suited_classifier

    public = load_public_data(
        data,
        dataset,
        download=download,
        size=size,
        colour=colour,
        skip_unreadable=skip_unreadable,
        note=note,
    )
    chosen, training = suited_classifier(
        public.image_shape, epochs=epochs, architecture=architecture, precision=precision
    )
    with _steps("training the classifier", epochs, public) as on_batch:
        figures = pretrain_classifier(
            public,
            output,
            training,
            architecture=chosen,
            made=_made(seed, device),
            on_batch=on_batch,
        )
    _show(figures, output)


@app.command()
def target_model(
    data: Data = Path("data"),
    dataset: Name = DEFAULT_DATASET,
    output: Output = Path("pretrained"),
    download: Download = False,
    size: Size = None,
    colour: Colour = False,
    skip_unreadable: SkipUnreadable = False,
    note: Note = None,
    name: Annotated[str, typer.Option(help="See `leaktune list models`.")] = "lenet",
    epochs: Annotated[int, typer.Option(help="Passes over the training images.")] = 3,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Train a target model; name its weights in a plan with target_model.weights."""
    from engine.pretraining import ClassifierTraining, pretrain_target_model

    public = load_public_data(
        data,
        dataset,
        download=download,
        size=size,
        colour=colour,
        skip_unreadable=skip_unreadable,
        note=note,
    )
    training = ClassifierTraining(epochs=epochs)
    with _steps(f"training {name}", epochs, public) as on_batch:
        figures = pretrain_target_model(
            public, output, training, name=name, made=_made(seed, device), on_batch=on_batch
        )
    _show(figures, output)


@app.command()
def private_images(
    data: Data = Path("data"),
    dataset: Name = DEFAULT_DATASET,
    output: Output = Path("pretrained"),
    download: Download = False,
    size: Size = None,
    colour: Colour = False,
    skip_unreadable: SkipUnreadable = False,
    note: Note = None,
) -> None:
    """Choose private images and distractors from the test images."""
    from engine.pretraining import choose_private_images

    public = load_public_data(
        data,
        dataset,
        download=download,
        size=size,
        colour=colour,
        skip_unreadable=skip_unreadable,
        note=note,
    )
    choose_private_images(public, output, made=_made(0, "cpu"))
    typer.echo(f"Written: {output / 'private_images.safetensors'}")


def _tracker(
    uri: str | None,
    experiment: str,
    output: Path,
    settings: "GeneratorTraining",
    resume: bool,
) -> "TrainingTracker | None":
    if uri is None:
        return None
    from engine.tracking import TrainingTracker

    tracker = TrainingTracker(output, uri=uri, experiment=experiment)
    tracker.start(asdict(settings), resume=resume)
    return tracker


@contextmanager
def _watched(
    settings: "GeneratorTraining",
    data: "PublicData",
    tracker: "TrainingTracker | None",
    samples_every: int,
) -> Iterator["Watch"]:
    """Shows a training's progress on a bar, and records it."""
    from engine.generators.training import EpochFigures
    from engine.pretraining import Watch

    steps = settings.epochs * -(-len(data.train.images) // settings.batch_size)
    with _bar("training the generator", steps) as (bar, task):

        def show(figures: EpochFigures, picture: Path | None) -> None:
            bar.update(task, completed=figures.epoch * steps / settings.epochs)
            values = ", ".join(f"{name} {value:.4g}" for name, value in figures.values.items())
            bar.console.print(f"epoch {figures.epoch}/{settings.epochs}: {values}", highlight=False)
            if tracker is not None:
                _told(lambda: tracker.log_epoch(figures.epoch, figures.values, picture))

        yield Watch(on_batch=lambda: bar.advance(task), on_epoch=show, samples_every=samples_every)


def _told(send: Any) -> None:
    """Sends something to MLflow; a training goes on without it."""
    from engine.tracking import TrackingError

    try:
        send()
    except TrackingError as error:
        typer.secho(f"Not recorded in MLflow: {error.reason}.", fg="yellow", err=True)


def _made(seed: int, device: str) -> "Made":
    from engine.pretraining import Made

    if device == "auto":
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
    return Made(command=_command(sys.argv[1:]), seed=seed, device=device)


def _command(words: Sequence[str]) -> str:
    """Returns the command line without this machine's folders, and as if not interrupted."""
    unnamed = {"--data", "--output", "--tracking"}
    kept = [
        f'"{word}"' if " " in word else word
        for before, word in pairwise(["", *words])
        if not {before, word.partition("=")[0]} & unnamed and word != "--resume"
    ]
    return " ".join(["leaktune", *kept])


@contextmanager
def _steps(title: str, epochs: int, data: "PublicData") -> Iterator[Any]:
    with _bar(title, epochs * -(-len(data.train.images) // 128)) as (bar, task):
        yield lambda: bar.advance(task)


@contextmanager
def _bar(title: str, steps: int) -> Iterator[tuple[ProgressBar, TaskID]]:
    with ProgressBar(console=Console(stderr=True)) as bar:
        yield bar, bar.add_task(title, total=steps)


def _show(figures: dict[str, float], output: Path) -> None:
    for name, value in figures.items():
        typer.echo(f"{name.replace('_', ' ')}: {value}")
    typer.echo(f"Written to {output}")
