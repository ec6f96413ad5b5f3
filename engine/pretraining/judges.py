"""Finds the evaluation classifier that judges what a generator draws."""

from pathlib import Path

from engine import assets
from engine.errors import InputError
from engine.pretraining.public_data import PublicData
from engine.scoring.evaluation_classifier import EvaluationClassifier, load_classifier
from engine.setups import part_path

REMEDY = (
    "Make one with `leaktune pretrain classifier` and the same --data, --dataset and --output, or "
    "name another with --classifier."
)


def find_judge(
    reference: str | None, data: PublicData, *, dataset: str, output: Path
) -> EvaluationClassifier | None:
    """Returns the evaluation classifier; none for images of one class, where none is named.

    Args:
        reference: An embedded data set's name, or a path. If None, the data set's embedded one
            or else the one in ``output``.
        data: What it is to judge images of.
        dataset: The data set's name.
        output: Folder that ``pretrain`` writes to.

    Raises:
        InputError: If it is missing, or of other images or classes.
    """
    if reference is None:
        if len(data.classes) == 1:
            return None
        reference = _reference(dataset, output)
    judge = load_classifier(part_path(reference, "classifier"))
    shape, classes = judge.image_shape, judge.classes
    if (shape, classes) != (data.image_shape, len(data.classes)):
        raise InputError(
            f"Expected an evaluation classifier of images {data.image_shape} and "
            f"{len(data.classes)} classes, got one of {shape} and {classes}: {reference}. {REMEDY}"
        )
    return judge


def _reference(dataset: str, output: Path) -> str:
    if dataset in assets.datasets():
        return dataset
    path = output / "classifier.safetensors"
    if not path.is_file():
        raise InputError(f"Expected an evaluation classifier at {path}, found none. {REMEDY}")
    return str(path)
