import dataclasses

import pytest
import torch
from safetensors.torch import save_file

from engine.errors import InputError, PlanError
from engine.federation.private_images import PrivateImages, load_private_images


@pytest.fixture
def tensors():
    return {
        "images": torch.arange(2 * 16, dtype=torch.uint8).view(2, 1, 4, 4) * 8,
        "labels": torch.tensor([1, 0]),
        "distractor_images": torch.full((3, 1, 4, 4), 255, dtype=torch.uint8),
        "distractor_labels": torch.tensor([1, 1, 0]),
    }


def test_images_are_read_into_the_unit_interval(tmp_path, tensors):
    save_file(tensors, tmp_path / "private.safetensors")

    private = load_private_images(tmp_path / "private.safetensors")

    torch.testing.assert_close(private.images, tensors["images"].float() / 255)
    assert private.distractor_images.max() == 1
    assert private.labels.tolist() == [1, 0]
    assert len(private.distractors_of(1)) == 2


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("images", torch.rand(2, 1, 4, 4), "images in .* as uint8"),
        ("images", torch.zeros(2, 4, 4, dtype=torch.uint8), "of shape"),
        ("labels", torch.tensor([1, 0], dtype=torch.int32), "labels in .* as int64"),
        ("labels", torch.tensor([1, 0, 2]), r"of shape \(2,\)"),
        ("distractor_images", torch.rand(3, 1, 4, 4), "distractor_images in .* as uint8"),
        ("distractor_labels", torch.tensor([1]), r"distractor_labels in .* of shape \(3,\)"),
    ],
)
def test_wrong_tensors_are_refused(tmp_path, tensors, name, tensor, message):
    save_file({**tensors, name: tensor}, tmp_path / "private.safetensors")

    with pytest.raises(InputError, match=message):
        load_private_images(tmp_path / "private.safetensors")


def test_a_missing_tensor_is_named(tmp_path, tensors):
    del tensors["distractor_labels"]
    save_file(tensors, tmp_path / "private.safetensors")

    with pytest.raises(InputError, match="got no distractor_labels"):
        load_private_images(tmp_path / "private.safetensors")


def test_distractors_of_another_shape_are_refused(tmp_path, tensors):
    tensors["distractor_images"] = torch.zeros(3, 3, 5, 5, dtype=torch.uint8)
    save_file(tensors, tmp_path / "private.safetensors")

    with pytest.raises(InputError):
        load_private_images(tmp_path / "private.safetensors")


def private_with(labels):
    images = torch.zeros(len(labels), 1, 2, 2)
    return PrivateImages(images, torch.tensor(labels), images, torch.tensor(labels))


@pytest.mark.parametrize(("target", "donor"), [(0, 2), (2, 3), (3, 0), (1, 4), (4, 1)])
def test_the_donor_is_the_next_image_of_the_class(target, donor):
    assert private_with([5, 7, 5, 5, 7]).donor_of(target, 1) == donor


@pytest.mark.parametrize(("target", "donor"), [(0, 1), (2, 0)])
def test_without_another_of_its_class_the_donor_is_the_next_image(target, donor):
    assert private_with([0, 1, 2]).donor_of(target, 1) == donor


@pytest.mark.parametrize(
    ("client", "donor"),
    [
        (0, 3),  # Holds both classes of client 0, the other way round.
        (1, 4),  # Holds class 2 twice as client 1 does; client 2 holds it once.
        (4, 1),
        (5, 0),  # Shares no class with any: the next, from the start again.
    ],
)
def test_the_donor_of_a_client_is_the_next_with_the_most_classes_in_common(client, donor):
    labels = [5, 7, 2, 2, 2, 9, 7, 5, 2, 2, 8, 1, 4]  # The last one is of no client.

    assert private_with(labels).donor_of(client, 2) == donor


@pytest.mark.parametrize(("labels", "images"), [([0], 1), ([0, 1, 2], 2)])
def test_one_client_has_no_donor(labels, images):
    with pytest.raises(PlanError, match="at least 2 clients"):
        private_with(labels).donor_of(0, images)


def test_a_client_holds_the_images_after_those_of_the_clients_before_it():
    private = private_with([5, 7, 2, 2, 9])
    private = dataclasses.replace(private, images=torch.arange(20.0).view(5, 1, 2, 2))

    held = private.of_client(1, 2)

    assert held.labels.tolist() == [2, 2]
    assert held.images.flatten().tolist() == list(range(8, 16))
    assert held.distractor_labels.tolist() == [5, 7, 2, 2, 9]
