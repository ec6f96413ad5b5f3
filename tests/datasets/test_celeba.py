import pytest
import torch
from torchvision.transforms import CenterCrop, Compose, PILToTensor, Resize

from engine.datasets import DATASETS, CelebA32
from engine.errors import InputError
from tests.datasets.layouts import picture, write_celeba

PICTURES = 8


@pytest.fixture
def folder(tmp_path):
    return write_celeba(tmp_path / "celeba-32", PICTURES)


def edit(path, change):
    path.write_text(change(path.read_text()))


def test_is_known_by_its_name():
    assert isinstance(DATASETS.make("celeba-32"), CelebA32)


def test_the_public_images_are_the_training_partition_and_the_clients_the_validation_one(folder):
    train, test = CelebA32().read(folder, "train"), CelebA32().read(folder, "test")

    assert train.labels.tolist() == [1, 0, 0, 1, 0, 0, 1, 0]
    assert test.labels.tolist() == [0, 1, 0, 0, 1, 0, 0, 1]
    assert train.images.shape == test.images.shape == (PICTURES, 3, 32, 32)
    assert (train.images.dtype, train.labels.dtype) == (torch.uint8, torch.int64)


def test_images_are_resized_and_cropped_as_torchvision_does(folder):
    # Larger ones than the lists', saved without loss.
    for number, size in enumerate([(178, 218), (218, 178), (99, 99), (33, 70)], start=PICTURES):
        path = folder / "img_align_celeba" / f"{number + 1:06}.jpg"
        picture(number, size).save(path, format="png")
    expected = [
        Compose([Resize(32), CenterCrop(32), PILToTensor()])(picture(number, size))
        for number, size in enumerate([(178, 218), (218, 178), (99, 99), (33, 70)], start=PICTURES)
    ]

    read = CelebA32().read(folder, "test").images[:4]

    assert torch.equal(read, torch.stack(expected))


def test_only_the_first_of_some_classes_are_read(folder):
    every = CelebA32().read(folder, "test")
    (folder / "img_align_celeba" / f"{2 * PICTURES:06}.jpg").write_bytes(b"not read")

    some = CelebA32().read(folder, "test", classes=(1,), per_class=2)
    each = CelebA32().read(folder, "test", per_class=1)

    assert some.labels.tolist() == [1, 1]
    assert torch.equal(some.images, every.images[[1, 4]])
    assert each.labels.tolist() == [0, 1]


def test_the_attribute_is_found_by_its_name(folder):
    before = CelebA32().read(folder, "test").labels
    edit(
        folder / "list_attr_celeba.txt",
        lambda text: text.replace("Eyeglasses Male", "Male Eyeglasses"),
    )

    assert CelebA32().read(folder, "test").labels.tolist() == [0] * PICTURES
    assert before.sum() > 0


@pytest.mark.parametrize(
    "name", ["img_align_celeba", "list_attr_celeba.txt", "list_eval_partition.txt"]
)
def test_what_is_missing_is_named_with_where_to_fetch_it(folder, name):
    (folder / name).rename(folder / "elsewhere")

    with pytest.raises(InputError, match=rf"Expected {name} in .*mmlab.*non-commercial.*put the"):
        CelebA32().read(folder, "test")


def test_pictures_unpacked_by_half_are_counted(folder):
    for number in (10, 11, 16):
        (folder / "img_align_celeba" / f"{number:06}.jpg").unlink()

    with pytest.raises(InputError, match=r"8 pictures .*but 3 are missing, 000010.jpg the first"):
        CelebA32().read(folder, "test")


def test_a_damaged_picture_is_named(folder):
    path = folder / "img_align_celeba" / "000012.jpg"
    path.write_bytes(path.read_bytes()[:700])

    with pytest.raises(InputError, match=r"Expected a picture in .*000012.jpg"):
        CelebA32().read(folder, "test")


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("list_attr_celeba.txt", lambda t: t.replace("Male", "Man"), "Male among them, got '24'"),
        ("list_attr_celeba.txt", lambda t: t.partition("\n")[2], "got 'Eyeglasses Male Young'"),
        ("list_attr_celeba.txt", lambda t: t.replace("-1  -1", "-1  0"), "of 1 or -1 in line 4"),
        ("list_attr_celeba.txt", lambda t: t.replace("-1  -1", "-1"), "3 attributes .* in line 4"),
        ("list_attr_celeba.txt", lambda t: t[:200], "attributes of 1 or -1 in line|pictures in"),
        ("list_attr_celeba.txt", lambda _: "", "got '' and ''"),
        (
            "list_attr_celeba.txt",
            lambda t: "\n".join(t.splitlines()[:10]),
            "Expected 24 pictures in .*, as its first line says, got 8",
        ),
        ("list_eval_partition.txt", lambda t: t.replace(" 1", ",1"), "0, 1 or 2 in line 9"),
        ("list_eval_partition.txt", lambda t: t.replace(" 1", " 3"), "0, 1 or 2 in line 9"),
        ("list_eval_partition.txt", lambda t: t.replace(" 1", " 2"), "got none. Fetch both"),
        ("list_eval_partition.txt", lambda t: t.replace("000009", "../../x"), "the first"),
    ],
)
def test_lists_of_something_else_are_refused(folder, name, change, message):
    edit(folder / name, change)

    with pytest.raises(InputError, match=message):
        CelebA32().read(folder, "test")


def test_a_list_that_is_no_text_is_refused(folder):
    (folder / "list_attr_celeba.txt").write_bytes(b"\xff\xfe\x00")

    with pytest.raises(InputError, match="Expected text"):
        CelebA32().read(folder, "test")
