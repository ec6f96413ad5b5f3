import numpy as np
import pytest
import torch

from engine.datasets import DATASETS
from engine.errors import InputError

RECORDS = np.random.default_rng(0).integers(0, 256, (6, 3073), dtype=np.uint8)
RECORDS[:, 0] = [3, 9, 0, 3, 3, 1]


def read(folder, split="train", **chosen):
    return DATASETS.make("cifar10").read(folder, split, **chosen)


@pytest.fixture
def folder(tmp_path):
    """The authors' binary version, of six records a file."""
    for number in range(1, 6):
        records = RECORDS.copy()
        records[:, 1] = number
        records.tofile(tmp_path / f"data_batch_{number}.bin")
    RECORDS.tofile(tmp_path / "test_batch.bin")
    return tmp_path


@pytest.fixture
def pictures(tmp_path, picture):
    """A folder a class, two pictures each."""
    for split in ("train", "test"):
        for label, name in enumerate(DATASETS.make("cifar10").classes):
            for number in range(2):
                path = tmp_path / split / name / f"{number:04d}.png"
                picture(path, (32, 32, 3), seed=10 * label + number)
    return tmp_path


def test_records_are_a_label_and_an_image_by_channels(folder):
    split = read(folder, "test")

    assert split.images.dtype == torch.uint8
    assert split.labels.tolist() == [3, 9, 0, 3, 3, 1]
    expected = RECORDS[:, 1:].reshape(6, 3, 32, 32)
    np.testing.assert_array_equal(split.images.numpy(), expected)


def test_the_five_training_files_are_read_in_their_order(folder):
    split = read(folder)

    assert len(split.images) == 30
    assert split.images[::6, 0, 0, 0].tolist() == [1, 2, 3, 4, 5]


def test_files_are_found_where_the_archive_unpacks_them(folder, tmp_path):
    unpacked = tmp_path / "cifar-10-batches-bin"
    unpacked.mkdir()
    for path in folder.glob("*.bin"):
        path.rename(unpacked / path.name)

    assert len(read(tmp_path, "test").images) == 6


def test_classes_and_their_first_images_can_be_read_alone(folder):
    split = read(folder, "test", classes=(3, 1), per_class=2)

    assert split.labels.tolist() == [3, 3, 1]
    np.testing.assert_array_equal(
        split.images.numpy(), RECORDS[[0, 3, 5], 1:].reshape(3, 3, 32, 32)
    )


def test_folders_of_classes_are_read_in_the_authors_order(pictures, picture):
    split = read(pictures, "test")

    assert split.labels.tolist() == [label for label in range(10) for _ in range(2)]
    assert split.images.shape == (20, 3, 32, 32)
    values = picture(pictures / "again.png", (32, 32, 3), seed=31)
    np.testing.assert_array_equal(split.images[7].numpy(), values.transpose(2, 0, 1))


def test_missing_files_say_what_to_fetch_with_its_hash(tmp_path):
    with pytest.raises(InputError, match=r"Expected data_batch_1\.bin in .*found none") as caught:
        read(tmp_path)

    for word in ("cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530", "cs.toronto.edu"):
        assert word in str(caught.value)


def test_the_python_version_is_not_opened(tmp_path):
    (tmp_path / "data_batch_1").write_bytes(b"\x80\x02 a pickle")

    with pytest.raises(InputError, match="The python version holds pickles"):
        read(tmp_path)


@pytest.mark.parametrize("size", [0, 3072, 3074])
def test_a_damaged_file_is_refused(size, folder):
    (folder / "test_batch.bin").write_bytes(bytes(size))

    with pytest.raises(InputError, match=f"Expected records of 3073 bytes .* got {size} bytes"):
        read(folder, "test")


def test_labels_beyond_the_ten_classes_are_refused(folder):
    (folder / "test_batch.bin").write_bytes(bytes([10]) + bytes(3072))

    with pytest.raises(InputError, match=r"labels of 10 classes .* got a label 10"):
        read(folder, "test")


def test_a_missing_class_is_named(pictures):
    for path in (pictures / "train" / "frog").iterdir():
        path.unlink()
    (pictures / "train" / "frog").rmdir()

    with pytest.raises(InputError, match=r"a folder for each of the 10 classes .*: frog"):
        read(pictures)


def test_folders_without_pictures_are_refused(tmp_path):
    for name in DATASETS.make("cifar10").classes:
        (tmp_path / "train" / name).mkdir(parents=True)

    with pytest.raises(InputError, match="Expected pictures in"):
        read(tmp_path)


def test_pictures_of_another_size_are_refused(pictures, picture):
    for path in pictures.glob("train/*/*.png"):
        picture(path, (16, 16, 3))

    with pytest.raises(InputError, match=r"Expected pictures of 32 x 32 .* got 16 x 16"):
        read(pictures)
