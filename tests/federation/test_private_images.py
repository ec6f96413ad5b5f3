import dataclasses

import pytest
import torch
from safetensors.torch import save_file

from engine.datasets import LabelledImages
from engine.errors import InputError, PlanError
from engine.federation.private_images import (
    PrivateImages,
    load_private_images,
    read_private_images,
)


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
        ("labels", torch.tensor([1, -1]), "labels in .* of 0 and more, got -1"),
    ],
)
def test_wrong_tensors_are_refused(tmp_path, tensors, name, tensor, message):
    save_file({**tensors, name: tensor}, tmp_path / "private.safetensors")

    with pytest.raises(InputError, match=message):
        load_private_images(tmp_path / "private.safetensors")


def test_a_file_without_private_images_is_refused(tmp_path, tensors):
    none = {"images": tensors["images"][:0], "labels": tensors["labels"][:0]}
    save_file({**tensors, **none}, tmp_path / "private.safetensors")

    with pytest.raises(InputError, match="at least one private image"):
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


class Numbered:
    """A data set whose images say of which class and which of it they are."""

    def __init__(self, classes, each):
        self.classes = tuple(f"class {label}" for label in range(classes))
        self.each = each
        self.asked = None

    def read(self, folder, split, *, classes, per_class):
        self.asked = (split, classes, per_class)
        labels = torch.tensor(sorted(classes * min(per_class, self.each)))
        places = torch.cat([torch.arange(int(n)) for n in labels.unique(return_counts=True)[1]])
        images = torch.stack([labels // 256, labels % 256, places], dim=1).to(torch.uint8)
        return LabelledImages(images[:, :, None, None].expand(-1, -1, 2, 2), labels)


def places_of(images):
    return [tuple(row) for row in (images[:, :, 0, 0] * 255).round().int().tolist()]


def test_clients_hold_one_image_of_each_class_after_the_other(tmp_path):
    dataset = Numbered(classes=3, each=200)

    private = read_private_images(dataset, tmp_path, needed=5)

    assert dataset.asked == ("test", (0, 1, 2), 4 + 99)
    assert private.labels.tolist() == [0, 1, 2] * 4
    assert places_of(private.images)[2:5] == [(0, 2, 0), (0, 0, 1), (0, 1, 1)]
    assert len(private.distractors_of(1)) == 99
    assert places_of(private.distractors_of(1))[0] == (0, 1, 4)
    assert private.images.dtype == torch.float32


def test_there_are_distractors_of_the_classes_attacked_alone(tmp_path):
    private = read_private_images(Numbered(classes=3, each=200), tmp_path, needed=2)

    assert private.distractor_labels.unique().tolist() == [0, 1]


def test_more_targets_than_four_of_a_class_take_more_of_each(tmp_path):
    private = read_private_images(Numbered(classes=2, each=200), tmp_path, needed=13)

    assert private.labels.tolist() == [0, 1] * 7
    assert places_of(private.distractors_of(0))[0] == (0, 0, 7)


def test_fewer_distractors_than_99_are_all_there_are(tmp_path):
    private = read_private_images(Numbered(classes=2, each=50), tmp_path, needed=8)

    assert len(private.distractors_of(0)) == 46


def test_of_many_classes_as_many_are_read_as_are_attacked_spread_over_all(tmp_path):
    dataset = Numbered(classes=1000, each=50)

    private = read_private_images(dataset, tmp_path, needed=8)
    more = read_private_images(dataset, tmp_path, needed=20)

    labels = private.labels[:8].tolist()
    gaps = torch.tensor(sorted([*labels, 1000])).diff()
    assert len(set(private.labels.tolist())) == 8
    assert gaps.min() > 50
    assert gaps.max() < 250
    assert more.labels[:8].tolist() == labels
    assert torch.equal(more.images[:8], private.images[:8])


def test_all_of_many_classes_are_each_attacked_once_before_any_twice(tmp_path):
    private = read_private_images(Numbered(classes=1000, each=6), tmp_path, needed=1001)

    assert sorted(private.labels[:1000].tolist()) == list(range(1000))


def test_too_few_images_of_a_class_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"at least 8 test images .* for 13 .* got 7 of class 0"):
        read_private_images(Numbered(classes=2, each=7), tmp_path, needed=13)


def test_a_hash_tells_images_apart_by_any_pixel_label_or_role():
    private = private_with([0, 1, 2])
    others = [
        dataclasses.replace(private, images=private.images + 0.1),
        dataclasses.replace(private, labels=torch.tensor([0, 1, 1])),
        dataclasses.replace(private, distractor_images=private.images + 0.1),
        private.first(2),
    ]

    assert private.sha256() == private_with([0, 1, 2]).sha256()
    assert len({one.sha256() for one in [private, *others]}) == 5
