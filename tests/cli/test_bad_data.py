"""Whatever is wrong with a user's data set or its weights: one message, and no search begins."""

import json
import shutil

import pytest
import torch
import yaml
from safetensors.torch import save_file

from engine import assets
from engine.federation import make_target_model
from tests.cli.test_bad_input import INPUT, assert_refused
from tests.datasets.layouts import (
    TINY_BIGGAN,
    wordnet_id,
    write_celeba_setup,
    write_imagenet_setup,
)

CELEBA = {"data": "celeba-32", "targets": 2, "data_folder": "DATA"}
IMAGENET = {
    "data": "imagenet-224",
    "targets": 1,
    "controls": [],
    "classifier": {"weights": "DATA/judge.safetensors"},
    "attack": {"space": "tanh"},
    "data_folder": "DATA",
}


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """A data folder with everything in place."""
    return write_imagenet_setup(write_celeba_setup(tmp_path_factory.mktemp("data")))


@pytest.fixture
def data(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "data")


@pytest.fixture
def validate(leaktune, data, tmp_path):
    """Validates a plan, its DATA put in."""

    def call(plan):
        path = tmp_path / "plan.yaml"
        path.write_text(yaml.safe_dump(plan).replace("DATA", str(data)))
        return leaktune("run", "--config", path, "--dry-run")

    return call


@pytest.mark.parametrize("plan", [CELEBA, IMAGENET])
def test_what_is_whole_is_fine(plan, validate):
    assert validate(plan).code == 0


def remove(name):
    def change(data):
        path = data / name
        (shutil.rmtree if path.is_dir() else type(path).unlink)(path)

    return change


def edit(name, old, new):
    def change(data):
        path = data / name
        path.write_text(path.read_text().replace(old, new))

    return change


def truncate(name):
    def change(data):
        path = data / name
        path.write_bytes(path.read_bytes()[:-1000])

    return change


def pickled(data):
    path = data / "imagenet-224" / "biggan-deep-256" / "model.safetensors"
    path.unlink()
    torch.save({"z": torch.zeros(1)}, path)


def of_another_size(data):
    path = data / "imagenet-224" / "biggan-deep-256" / "config.json"
    smaller = TINY_BIGGAN | {"output_dim": 128, "layers": TINY_BIGGAN["layers"][1:]}
    path.write_text(json.dumps(smaller))


def spill(data):
    """Leaves the validation set as its tar unpacks."""
    folder = data / "imagenet-224" / "val"
    for path in folder.glob("*/*"):
        path.rename(folder / path.name)
    for path in folder.glob("n*"):
        path.rmdir()


def head_of_ten(data):
    model = make_target_model("resnet18", image_shape=(3, 32, 32), classes=10, seed=0)
    save_file(model.state_dict(), data / "trained.safetensors")


REFUSED = {
    "no CelebA": (CELEBA, remove("celeba-32/img_align_celeba"), "Expected img_align_celeba in"),
    "no attributes": (
        CELEBA,
        remove("celeba-32/list_attr_celeba.txt"),
        "put the folder img_align_celeba and the two lists there",
    ),
    "half of CelebA": (
        CELEBA,
        remove("celeba-32/img_align_celeba/000032.jpg"),
        "1 are missing, 000032.jpg the first: unpacked by half",
    ),
    "attributes of another data set": (
        CELEBA,
        edit("celeba-32/list_attr_celeba.txt", "Male", "Bald"),
        "Male among them, got '90' and 'Eyeglasses Bald Young'",
    ),
    "no generator of CelebA": (
        CELEBA,
        remove("celeba-32/generator.safetensors"),
        "leaktune pretrain generator --dataset celeba-32",
    ),
    "no classifier of CelebA": (
        CELEBA,
        remove("celeba-32/classifier.safetensors"),
        "leaktune pretrain classifier --dataset celeba-32",
    ),
    "a target model whose head does not match": (
        CELEBA | {"target_model": {"weights": "DATA/trained.safetensors"}},
        head_of_ten,
        "fc.weight is (10, 512), expected (2, 512)",
    ),
    "grey images for a colour generator": (
        CELEBA
        | {"data": str(assets.asset("fashion-mnist", "private_images"))}
        | {"generator": {"weights": "celeba-32"}, "classifier": {"weights": "celeba-32"}},
        lambda data: None,
        "Expected private images of the generator's shape (3, 32, 32), got (1, 28, 28)",
    ),
    "no ImageNet": (IMAGENET, remove("imagenet-224/val"), "image-net.org/download"),
    "half of ImageNet": (
        IMAGENET,
        remove(f"imagenet-224/val/{wordnet_id(7)}"),
        "got 999: unpacked by half",
    ),
    "ImageNet without folders": (IMAGENET, spill, "got 0 and 6 pictures outside of any"),
    "no BigGAN": (
        IMAGENET,
        remove("imagenet-224/biggan-deep-256"),
        "biggan-deep-256/model.safetensors, found none. Fetch biggan-deep-256-config.json",
    ),
    "BigGAN without its configuration": (
        IMAGENET,
        remove("imagenet-224/biggan-deep-256/config.json"),
        "biggan-deep-256/config.json, found none. Fetch biggan-deep-256-config.json",
    ),
    "a pickled BigGAN": (IMAGENET, pickled, "which holds a pickle"),
    "a truncated BigGAN": (
        IMAGENET,
        truncate("imagenet-224/biggan-deep-256/model.safetensors"),
        "Expected a whole safetensors file",
    ),
    "BigGAN of another size": (IMAGENET, of_another_size, "of 256 pixels, got one of 128"),
    "no ResNet-50": (
        {key: value for key, value in IMAGENET.items() if key != "classifier"},
        lambda data: None,
        "Write torchvision's ResNet-50 there",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_data_that_cannot_be_used_are_refused_before_any_search(name, data, validate, empty):
    plan, change, said = REFUSED[name]
    change(data)

    refused = validate(plan)

    assert_refused(refused, INPUT, said)
    assert list(empty.iterdir()) == []
