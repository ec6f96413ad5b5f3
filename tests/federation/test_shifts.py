import pytest
import torch

from engine.checkpoints import file_sha256
from engine.errors import PlanError
from engine.federation.private_images import PrivateImages
from engine.federation.shifts import SHIFTS, fitted, paired, rotated, shifted
from engine.lab import build_lab, input_hashes
from engine.plan import make_plan
from engine.setups import private_file
from tests.conftest import seeded


def test_square_images_are_turned_by_a_quarter_others_by_half():
    square, wide = torch.arange(4.0).view(1, 1, 2, 2), torch.arange(6.0).view(1, 1, 2, 3)

    assert rotated(square).tolist() == [[[[1.0, 3.0], [0.0, 2.0]]]]
    assert rotated(wide).tolist() == [[[[5.0, 4.0, 3.0], [2.0, 1.0, 0.0]]]]


def test_two_objects_stand_side_by_side_in_each_image():
    images = torch.stack([torch.full((3, 4, 7), value) for value in (0.2, 0.6, 1.0)])

    found = paired(images)

    assert found.shape == images.shape
    torch.testing.assert_close(found[:, 0, 0, 0], torch.tensor([0.2, 0.6, 1.0]))
    torch.testing.assert_close(found[:, 0, 0, -1], torch.tensor([0.6, 1.0, 0.2]))


@pytest.mark.parametrize("name", [None, *SHIFTS])
def test_distractors_are_shifted_as_private_images_are_and_labels_kept(name):
    images = torch.rand(4, 1, 6, 6, generator=seeded(0))
    private = PrivateImages(images, torch.arange(4), images, torch.arange(4))

    found = shifted(private, name, (1, 6, 6))

    assert torch.equal(found.images, found.distractor_images)
    assert torch.equal(found.labels, private.labels)
    assert torch.equal(found.images, images) == (name is None)
    assert 0 <= found.images.min() <= found.images.max() <= 1


def test_images_of_another_data_set_get_the_size_and_colour_of_the_generators():
    colour = torch.tensor([1.0, 0.5, 0.0]).view(1, 3, 1, 1).expand(2, 3, 8, 8)
    grey = torch.full((2, 1, 6, 4), 0.25)

    torch.testing.assert_close(fitted(colour, (1, 4, 6)), torch.full((2, 1, 4, 6), 0.5925))
    torch.testing.assert_close(fitted(grey, (3, 8, 8)), torch.full((2, 3, 8, 8), 0.25))


def test_a_plan_attacks_images_of_another_data_set():
    plan = make_plan({"data": "cifar10", "shift": "fashion-mnist"}, source="test")
    plain = build_lab(make_plan({}, source="test")).private

    lab = build_lab(plan)

    assert lab.private.images.shape[1:] == lab.generator.image_shape == (3, 32, 32)
    assert torch.equal(lab.private.labels, plain.labels)
    assert torch.equal(
        lab.private.distractor_images, fitted(plain.distractor_images, lab.generator.image_shape)
    )
    assert input_hashes(plan)["private_images"] == file_sha256(private_file("fashion-mnist"))


def test_a_plan_shifts_what_its_clients_hold():
    plain, turned = (
        build_lab(make_plan({"shift": shift}, source="test")).private for shift in (None, "rotated")
    )

    assert torch.equal(turned.images, plain.images.rot90(1, dims=(2, 3)))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"shift": "rotate"}, "shift: Unknown shift 'rotate'; .*Did you mean 'rotated'"),
        ({"data": "cifar10", "shift": "cifar10"}, "shift: expected another data set"),
        ({"data": "mine.safetensors", "shift": "cifar10"}, "shift: expected another data set"),
        ({"shift": "rotated", "captures": ["c.safetensors"]}, "shift: expected none with captures"),
    ],
)
def test_impossible_shifts_are_refused(values, said):
    with pytest.raises(PlanError, match=said):
        make_plan(values, source="test")
