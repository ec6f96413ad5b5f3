"""`pretrain` from idx files to what a plan can name, on small files of the real layout."""

import gzip
import json
import shutil
import struct
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from engine.cli import main
from engine.cli.pretrain_commands import _command
from engine.generators import load_generator
from engine.lab import check_plan
from engine.plan import make_plan
from engine.tracking import TrackingError, TrainingTracker

pytestmark = pytest.mark.filterwarnings(
    # SQLAlchemy 2.1 on how MLflow 3.17 loads its tables.
    "ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning"
)

TRAIN, TEST = 12, 110  # Images of each class.


def write_split(folder, prefix, per_class, rng):
    labels = np.tile(np.arange(10, dtype=np.uint8), per_class)
    images = rng.integers(0, 90, (len(labels), 28, 28), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[2 * label : 2 * label + 8] += 150  # A class is a stripe.
    header = struct.pack(">4i", 2051, len(labels), 28, 28)
    (folder / f"{prefix}-images-idx3-ubyte.gz").write_bytes(
        gzip.compress(header + images.tobytes())
    )
    header = struct.pack(">2i", 2049, len(labels))
    (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(header + labels.tobytes())


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("idx")
    rng = np.random.default_rng(0)
    write_split(folder, "train", TRAIN, rng)
    write_split(folder, "t10k", TEST, rng)
    return folder


@pytest.fixture
def run(monkeypatch, data, tmp_path):
    def command(*words):
        given = () if "--data" in words else ("--data", str(data))
        full = ["leaktune", "pretrain", *words, *given, "--output", str(tmp_path)]
        monkeypatch.setattr(sys, "argv", full)
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code

    return command


GENERATOR = (
    *("generator", "--latent-dim", "3", "--width", "8", "--epochs", "2"),
    *("--projected-images", "10"),
)


def test_what_pretrain_makes_is_what_a_plan_can_name(run, tmp_path):
    for words in (
        ("classifier", "--epochs", "2"),
        (*GENERATOR, "--adversarial-after", "1"),
        ("target-model", "--epochs", "2"),
        ("private-images",),
    ):
        assert run(*words) == 0

    plan = make_plan(
        {
            "data": str(tmp_path / "private_images.safetensors"),
            "generator": {"weights": str(tmp_path / "generator.safetensors")},
            "classifier": {"weights": str(tmp_path / "classifier.safetensors")},
            "target_model": {"weights": str(tmp_path / "lenet.safetensors")},
        },
        source="test",
    )
    lab = check_plan(plan)
    assert lab.generator.latent_dim == 3
    assert len(lab.private.images) == 40
    assert len(lab.private.distractors_of(4)) == 99


def test_the_card_says_data_licence_command_seed_time_quality_and_hash(run, tmp_path):
    run(*GENERATOR, "--adversarial-after", "2", "--seed", "7")

    card = json.loads((tmp_path / "generator.json").read_text())
    page = (tmp_path / "generator.md").read_text()
    assert card["licence"] == "MIT"
    assert card["seed"] == 7
    assert card["seconds"] >= 0
    assert card["epochs_done"] == 2
    assert card["command"].endswith("--projected-images 10 --adversarial-after 2 --seed 7")
    assert set(card["figures"]) == {
        "oracle_psnr_db",
        "projected_images",
        "frechet_distance",
        "frechet_floor",
        "recognised",
    }
    for text in (card["sha256"], card["data"], "MIT", "generator.png"):
        assert text in page
    assert (tmp_path / "generator.png").read_bytes().startswith(b"\x89PNG")


CONVOLUTIONS = (
    *("generator", "--epochs", "2", "--adversarial-after", "1"),
    *("--latent-dim", "3", "--width", "8", "--batch-size", "16"),
    *("--projected-images", "5"),
)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Colour pictures of two classes, of two sizes, one of them grey."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for label, name in enumerate(("red", "green")):
        (folder / name).mkdir()
        for number in range(30):
            values = rng.integers(0, 90, (12, 14 + number % 2, 3), dtype=np.uint8)
            values[..., label] += 150
            Image.fromarray(values).save(folder / name / f"{number}.png")
    Image.fromarray(np.zeros((12, 12), np.uint8)).save(folder / "red" / "grey.png")
    return folder


@pytest.fixture
def run_folder(run, pictures):
    """Runs a command on the folder of pictures."""
    chosen = ("--dataset", "folder", "--size", "12", "--colour", "--data", str(pictures))
    return lambda *words: run(*words, *chosen)


@pytest.mark.parametrize(
    "words",
    [
        CONVOLUTIONS,
        (*CONVOLUTIONS, "--unconditional"),
        (*CONVOLUTIONS, "--recipe", "wgan-gp", "--critic-steps", "2"),
    ],
    ids=["vae-gan", "unconditional", "wgan-gp"],
)
def test_any_folder_of_pictures_makes_what_a_plan_can_name(words, run_folder, tmp_path):
    assert run_folder("classifier", "--epochs", "1", "--note", "of two colours") == 0
    assert run_folder(*words) == 0

    card = json.loads((tmp_path / "classifier.json").read_text())
    assert card["data"] == "a folder of pictures; of two colours"
    assert card["class_names"] == ["green", "red"]
    assert card["architecture"] == "deep"
    assert card["settings"] == {"classes": 2, "image_shape": [3, 12, 12]}
    figures = json.loads((tmp_path / "generator.json").read_text())["figures"]
    assert ("recognised" in figures) == ("--unconditional" not in words)
    generator = load_generator(tmp_path / "generator.safetensors")
    images = generator(torch.zeros(2, 3), torch.tensor([0, 1]))
    assert images.shape == (2, 3, 12, 12)
    assert torch.equal(images[0], images[1]) == ("--unconditional" in words)


def test_pictures_alone_make_a_generator_without_a_judge(run, tmp_path, tmp_path_factory):
    folder = tmp_path_factory.mktemp("flat")
    rng = np.random.default_rng(0)
    for number in range(20):
        values = rng.integers(0, 256, (12, 12), dtype=np.uint8)
        Image.fromarray(values).save(folder / f"{number}.png")

    assert run(*GENERATOR, "--dataset", "folder", "--data", str(folder)) == 0

    card = json.loads((tmp_path / "generator.json").read_text())
    assert set(card["figures"]) == {"oracle_psnr_db", "projected_images"}
    assert card["settings"]["classes"] == 1


def test_a_classifier_of_one_class_is_refused(run, tmp_path_factory, capsys):
    folder = tmp_path_factory.mktemp("one")
    for number in range(20):
        Image.fromarray(np.full((12, 12), number, np.uint8)).save(folder / f"{number}.png")

    assert run("classifier", "--dataset", "folder", "--data", str(folder)) == 3
    assert "at least 2 classes" in capsys.readouterr().err


def test_samples_are_drawn_every_few_epochs_in_the_colours_they_have(run_folder, tmp_path):
    run_folder("classifier", "--epochs", "1")
    run_folder(*CONVOLUTIONS[:1], "--epochs", "3", *CONVOLUTIONS[3:], "--samples-every", "2")

    assert [path.name for path in (tmp_path / "samples").iterdir()] == ["epoch-0002.png"]
    for path in (tmp_path / "samples" / "epoch-0002.png", tmp_path / "generator.png"):
        with Image.open(path) as picture:
            assert picture.mode == "RGB"
            assert picture.width % 24 == picture.height % 96 == 0


@pytest.mark.slow  # MLflow takes seconds to make a database.
def test_a_training_is_recorded_in_mlflow_as_it_goes_on(run, tmp_path, capsys):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    assert run(*GENERATOR, "--samples-every", "2", "--tracking", uri) == 0

    from mlflow import MlflowClient

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("leaktune-pretrain")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.status == "FINISHED"
    assert found.data.params["latent_dim"] == "3"
    assert {"squared_error", "oracle_psnr_db"} <= found.data.metrics.keys()
    assert "--tracking" not in json.loads((tmp_path / "generator.json").read_text())["command"]


def test_an_mlflow_that_cannot_be_reached_is_said_before_any_training(run, tmp_path, capsys):
    assert run(*GENERATOR, "--tracking", "http://127.0.0.1:9") == 4

    assert "nothing listens there" in capsys.readouterr().err
    assert not (tmp_path / "training").exists()


def test_an_mlflow_that_breaks_down_later_stops_no_training(run, monkeypatch, tmp_path, capsys):
    def refuse(*_, **__):
        raise TrackingError("nothing listens there", "Expected it to listen.")

    monkeypatch.setattr(TrainingTracker, "start", lambda *_, **__: None)
    monkeypatch.setattr(TrainingTracker, "log_epoch", refuse)
    monkeypatch.setattr(TrainingTracker, "finish", refuse)

    assert run(*GENERATOR, "--tracking", f"sqlite:///{tmp_path / 'mlflow.db'}") == 0
    assert "Not recorded in MLflow: nothing listens there." in capsys.readouterr().err


def test_a_missing_judge_is_said_before_any_training(run_folder, tmp_path, capsys):
    assert run_folder(*CONVOLUTIONS) == 3

    assert "leaktune pretrain classifier" in capsys.readouterr().err
    assert not (tmp_path / "training").exists()


def test_a_judge_of_other_images_is_refused(run_folder, tmp_path, capsys):
    assert run_folder(*CONVOLUTIONS, "--classifier", "fashion-mnist") == 3

    said = capsys.readouterr().err
    assert "of images (3, 12, 12) and 2 classes, got one of (1, 28, 28) and 10" in said


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--dataset", "cifar10"), 3, "cifar-10-binary.tar.gz"),
        (("--dataset", "cifar10", "--download"), 3, "Expected --download for a data set that can"),
        (("--dataset", "cifar"), 2, "Unknown data set 'cifar'"),
        (("--dataset", "fashion-mnist", "--size", "32"), 2, "Unknown setting 'size'"),
        (("--dataset", "folder", "--size", "400"), 2, "Expected size between 1 and 128"),
        (("--dataset", "folder"), 3, "found none"),
        (("--dataset", "folder", "--size", "0"), 2, "Expected size"),
    ],
)
def test_data_that_cannot_be_read_is_one_message(words, code, said, run, tmp_path, capsys):
    assert run("generator", "--data", str(tmp_path), *words) == code

    shown = capsys.readouterr()
    assert said in shown.err
    assert "Traceback" not in shown.err


def test_a_class_of_one_picture_is_refused(run, pictures, tmp_path, tmp_path_factory, capsys):
    folder = tmp_path_factory.mktemp("few") / "copy"
    shutil.copytree(pictures / "green", folder / "green")
    (folder / "rare").mkdir()
    for number in range(2):
        shutil.copy(pictures / "green" / f"{2 * number}.png", folder / "rare")

    words = ("classifier", "--dataset", "folder", "--size", "12", "--data", str(folder))
    assert run(*words) == 3
    assert "at least 2 training images of every class" in capsys.readouterr().err


def test_an_interrupted_training_resumes_to_the_same_weights(run, tmp_path):
    run(*GENERATOR)
    whole = load_file(tmp_path / "generator.safetensors")
    (tmp_path / "generator.safetensors").unlink()

    assert run(*GENERATOR, "--resume") == 0

    resumed = load_file(tmp_path / "generator.safetensors")
    assert all((resumed[name] == tensor).all() for name, tensor in whole.items())


def test_targets_are_spread_over_the_classes_and_disjoint_from_distractors(run, tmp_path):
    run("private-images")

    tensors = load_file(tmp_path / "private_images.safetensors")
    assert tensors["labels"][:20].tolist() == [*range(10), *range(10)]
    rows = {*tensors["test_rows"].tolist()}, {*tensors["distractor_test_rows"].tolist()}
    assert len(rows[0]) == 40
    assert len(rows[1]) == 990
    assert not rows[0] & rows[1]


def test_missing_data_is_one_message_that_says_how_to_get_it(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(
        sys, "argv", ["leaktune", "pretrain", "private-images", "--data", str(tmp_path)]
    )

    with pytest.raises(SystemExit) as ended:
        main()

    assert ended.value.code == 3
    assert "--download" in capsys.readouterr().err


def test_the_command_on_a_card_names_no_folder_of_this_machine():
    words = ["pretrain", "generator", "--data", "/home/x", "--epochs", "3", "--resume"]
    words += ["--output=/y", "--tracking", "sqlite:////z"]

    assert _command(words) == "leaktune pretrain generator --epochs 3"


def test_the_command_on_a_card_can_be_pasted():
    words = ["pretrain", "classifier", "--note", "as JPEG"]

    assert _command(words) == 'leaktune pretrain classifier --note "as JPEG"'
