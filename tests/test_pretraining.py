"""`pretrain` from idx files to what a plan can name, on small files of the real layout."""

import gzip
import json
import struct
import sys

import numpy as np
import pytest
from safetensors.torch import load_file

from engine.cli import main
from engine.cli.pretrain_commands import _command
from engine.lab import check_plan
from engine.plan import make_plan

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
        full = ["leaktune", "pretrain", *words, "--data", str(data), "--output", str(tmp_path)]
        monkeypatch.setattr(sys, "argv", full)
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code

    return command


GENERATOR = ("generator", "--latent-dim", "3", "--width", "8", "--epochs", "2")


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
    assert card["command"].endswith("--adversarial-after 2 --seed 7")
    assert set(card["figures"]) == {
        "oracle_psnr_db",
        "frechet_distance",
        "frechet_floor",
        "recognised",
    }
    for text in (card["sha256"], card["data"], "MIT", "generator.png"):
        assert text in page
    assert (tmp_path / "generator.png").read_bytes().startswith(b"\x89PNG")


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

    assert _command([*words, "--output", "/y"]) == "leaktune pretrain generator --epochs 3"
