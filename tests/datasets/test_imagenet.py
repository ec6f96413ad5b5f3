import shutil

import pytest
import torch
from torchvision.transforms import CenterCrop, Compose, PILToTensor, Resize

from engine.datasets import DATASETS, ImageNet224
from engine.errors import InputError
from tests.datasets.layouts import picture, wordnet_id, write_imagenet


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write_imagenet(tmp_path_factory.mktemp("data") / "imagenet-224", [3, 999], pictures=3)


@pytest.fixture
def folder(written, tmp_path):
    return shutil.copytree(written, tmp_path / "imagenet-224")


def test_is_known_by_its_name():
    assert isinstance(DATASETS.make("imagenet-224"), ImageNet224)


def test_a_label_is_the_place_of_its_folder_in_alphabetical_order(written):
    read = ImageNet224().read(written, "test", classes=(999, 3))

    assert read.labels.tolist() == [3, 3, 3, 999, 999, 999]
    assert read.images.shape == (6, 3, 224, 224)
    assert read.images.dtype == torch.uint8


def test_classes_are_named_in_the_order_of_torchvisions_weights():
    names = ImageNet224().classes

    assert len(names) == 1000
    assert (names[0], names[207], names[999]) == ("tench", "golden retriever", "toilet tissue")


def test_only_the_first_pictures_of_a_class_are_read(folder):
    last = sorted((folder / "val" / wordnet_id(3)).iterdir())[-1]
    last.write_bytes(b"not read")

    assert len(ImageNet224().read(folder, "test", classes=(3,), per_class=2).labels) == 2


def test_images_are_resized_and_cropped_as_torchvision_does(folder):
    paths = sorted((folder / "val" / wordnet_id(3)).iterdir())
    sizes = [(400, 300), (120, 333), (257, 256)]
    for number, (path, size) in enumerate(zip(paths, sizes, strict=True)):
        picture(number, size).save(path, format="png")
    crop = Compose([Resize(256), CenterCrop(224), PILToTensor()])
    expected = [crop(picture(number, size)) for number, size in enumerate(sizes)]

    read = ImageNet224().read(folder, "test", classes=(3,)).images

    assert torch.equal(read, torch.stack(expected))


def test_grey_pictures_and_others_are_read_in_colour(folder):
    path = sorted((folder / "val" / wordnet_id(3)).iterdir())[0]
    picture(0, (300, 300)).convert("L").save(path)
    grey = ImageNet224().read(folder, "test", classes=(3,), per_class=1).images[0]
    picture(0, (300, 300)).convert("CMYK").save(path)
    print_colours = ImageNet224().read(folder, "test", classes=(3,), per_class=1).images[0]

    assert torch.equal(grey[0], grey[2])
    assert print_colours.shape == (3, 224, 224)


def test_public_images_are_those_of_the_training_folder(tmp_path):
    write_imagenet(tmp_path, [0], pictures=2, split="train")

    assert len(ImageNet224().read(tmp_path, "train", classes=(0,)).images) == 2


def test_a_missing_folder_is_named_with_where_to_fetch_it(tmp_path):
    with pytest.raises(InputError, match=r"val, found none. Fetch .*image-net.org.*terms there"):
        ImageNet224().read(tmp_path, "test")


def test_a_validation_set_without_folders_of_classes_is_told_how_to_make_them(tmp_path):
    (tmp_path / "val").mkdir()
    picture(0, (8, 8)).save(tmp_path / "val" / "ILSVRC2012_val_00000001.JPEG", format="jpeg")

    with pytest.raises(InputError, match=r"got 0 and 1 pictures outside of any.*valprep.sh"):
        ImageNet224().read(tmp_path, "test")


def test_classes_that_are_missing_would_shift_all_labels_and_are_refused(folder):
    shutil.rmtree(folder / "val" / wordnet_id(500))

    with pytest.raises(InputError, match=r"Expected 1000 folders .* got 999: unpacked by half"):
        ImageNet224().read(folder, "test")


def test_an_empty_class_is_refused_if_it_is_read(folder):
    with pytest.raises(InputError, match=rf"Expected pictures .*{wordnet_id(4)}, found none"):
        ImageNet224().read(folder, "test", classes=(3, 4))


def test_a_damaged_picture_is_named(folder):
    path = sorted((folder / "val" / wordnet_id(3)).iterdir())[1]
    path.write_bytes(b"\xff\xd8\xff\xe0 not a picture")

    with pytest.raises(InputError, match=rf"Expected a picture in .*{path.name}"):
        ImageNet224().read(folder, "test", classes=(3,))
