import gzip
import struct

import numpy as np
import pytest
import torch

from engine.datasets import DATASETS
from engine.errors import InputError

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 28, 28), dtype=np.uint8)
LABELS = np.array([9, 0, 4], dtype=np.uint8)
IMAGES_FILE, LABELS_FILE = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


def idx(values):
    return struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape) + (
        values.tobytes()
    )


@pytest.fixture
def folder(tmp_path):
    (tmp_path / IMAGES_FILE).write_bytes(idx(IMAGES))
    (tmp_path / LABELS_FILE).write_bytes(idx(LABELS))
    return tmp_path


def read(folder, split, **chosen):
    return DATASETS.make("fashion-mnist").read(folder, split, **chosen)


def assert_is_the_split(split):
    images, labels = split.images, split.labels
    assert images.dtype == torch.uint8
    assert labels.dtype == torch.int64
    np.testing.assert_array_equal(images.numpy(), IMAGES[:, None])
    assert labels.tolist() == [9, 0, 4]


def test_plain_idx_files_are_read(folder):
    assert_is_the_split(read(folder, "train"))


def test_gzipped_idx_files_are_read(tmp_path):
    (tmp_path / f"{IMAGES_FILE}.gz").write_bytes(gzip.compress(idx(IMAGES)))
    (tmp_path / f"{LABELS_FILE}.gz").write_bytes(gzip.compress(idx(LABELS)))

    assert_is_the_split(read(tmp_path, "train"))


def test_files_are_found_where_torchvision_puts_them(folder):
    raw = folder / "elsewhere" / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    (folder / IMAGES_FILE).rename(raw / IMAGES_FILE)
    (folder / LABELS_FILE).rename(raw / LABELS_FILE)

    assert_is_the_split(read(folder / "elsewhere", "train"))


def test_the_test_split_has_files_of_its_own(folder):
    (folder / "t10k-images-idx3-ubyte").write_bytes(idx(IMAGES[:1]))
    (folder / "t10k-labels-idx1-ubyte").write_bytes(idx(LABELS[:1]))

    split = read(folder, "test")

    assert len(split.images) == 1
    assert split.labels.tolist() == [9]


def test_classes_and_their_first_images_can_be_read_alone(folder):
    chosen = read(folder, "train", classes=(0, 4), per_class=1)

    assert chosen.labels.tolist() == [0, 4]
    np.testing.assert_array_equal(chosen.images.numpy(), IMAGES[1:, None])


@pytest.mark.parametrize("name", [IMAGES_FILE, LABELS_FILE])
def test_a_missing_file_is_named_with_the_remedy(folder, name):
    (folder / name).unlink()

    with pytest.raises(InputError, match=f"Expected {name} or .* Add --download"):
        read(folder, "train")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00\x00\x08",
        b"\x00\x00\x08\x03\x00\x00",
        idx(IMAGES)[:16],
        idx(IMAGES)[:-1],
        idx(IMAGES) + b"\x00",
        idx(LABELS),
        b"<!DOCTYPE html><html>404 not found</html>",
        struct.pack(">iiii", 2051, -3, -28, 28) + IMAGES.tobytes(),
    ],
    ids=[
        "empty",
        "three bytes",
        "half a header",
        "header alone",
        "cut short",
        "too long",
        "labels",
        "a web page",
        "negative sizes",
    ],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_damaged_images_are_refused(folder, content, zipped):
    (folder / IMAGES_FILE).unlink()
    name = f"{IMAGES_FILE}.gz" if zipped else IMAGES_FILE
    (folder / name).write_bytes(gzip.compress(content) if zipped else content)

    with pytest.raises(InputError):
        read(folder, "train")


def flip_a_byte(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-20],
        lambda content: content[:5],
        lambda content: b"not gzip" + content,
        flip_a_byte,
        lambda content: content[:10] + b"\xff" * 40 + content[50:],
    ],
    ids=["cut short", "almost nothing", "not gzip", "one byte", "many bytes"],
)
def test_a_damaged_gzip_file_is_refused(folder, damage):
    (folder / IMAGES_FILE).unlink()
    (folder / f"{IMAGES_FILE}.gz").write_bytes(damage(gzip.compress(idx(IMAGES))))

    with pytest.raises(InputError):
        read(folder, "train")


def test_more_labels_than_images_are_refused(folder):
    (folder / LABELS_FILE).write_bytes(idx(np.zeros(4, dtype=np.uint8)))

    with pytest.raises(InputError, match="as many 28 x 28 images as labels"):
        read(folder, "train")


def test_images_of_another_size_are_refused(folder):
    (folder / IMAGES_FILE).write_bytes(idx(np.zeros((3, 14, 14), dtype=np.uint8)))

    with pytest.raises(InputError, match="as many 28 x 28 images as labels"):
        read(folder, "train")


def test_labels_beyond_the_ten_classes_are_refused(folder):
    (folder / LABELS_FILE).write_bytes(idx(np.array([9, 10, 0], dtype=np.uint8)))

    with pytest.raises(InputError):
        read(folder, "train")
