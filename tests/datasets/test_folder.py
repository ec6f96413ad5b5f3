import numpy as np
import pytest
import torch
from PIL import Image

from engine.datasets import DATASETS
from engine.errors import InputError, PlanError


def folder_of(**settings):
    return DATASETS.make("folder", **settings)


def read(folder, split="train", **settings):
    return folder_of(**settings).read(folder, split)


@pytest.fixture
def classed(tmp_path, picture):
    """Two classes of 20 and 5 grey pictures."""
    for name, count in (("dogs", 5), ("cats", 20)):
        for number in range(count):
            picture(tmp_path / name / f"{number}.png", (8, 6), seed=number)
    return tmp_path


@pytest.fixture
def flat(tmp_path, picture):
    for number in range(10):
        picture(tmp_path / f"{number}.jpg", (8, 8, 3), seed=number)
    return tmp_path


def test_folders_are_classes_by_name(classed):
    train, test = read(classed), read(classed, "test")

    assert folder_of().class_names(classed) == ("cats", "dogs")
    assert train.labels.tolist() == [0] * 18 + [1] * 4
    assert test.labels.tolist() == [0, 0, 1]
    assert train.images.shape == (22, 1, 8, 6)
    assert train.images.dtype == torch.uint8


def test_the_splits_share_no_picture_and_lose_none(classed):
    both = [read(classed, split).images[:, 0] for split in ("train", "test")]

    rows = [{image.numpy().tobytes() for image in images} for images in both]
    # Five pictures of either class are the same, by their seeds.
    assert len(rows[0] | rows[1]) == 20
    assert len(both[0]) + len(both[1]) == 25


def test_the_held_out_pictures_are_the_same_wherever_the_folder_lies(classed, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "moved"
    before = read(classed, "test").images
    classed.rename(elsewhere)

    assert torch.equal(read(elsewhere, "test").images, before)


def test_pictures_alone_are_of_one_class(flat):
    train = read(flat)

    assert folder_of().class_names(flat) == ("all",)
    assert train.images.shape == (9, 3, 8, 8)
    assert train.labels.tolist() == [0] * 9
    assert len(read(flat, "test").images) == 1


def test_folders_train_and_test_are_the_splits(tmp_path, picture):
    for split, count in (("train", 3), ("test", 2)):
        for name in ("a", "b"):
            for number in range(count):
                picture(tmp_path / split / name / f"{number}.png", (8, 8), seed=number)

    assert folder_of().class_names(tmp_path) == ("a", "b")
    assert read(tmp_path).labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert read(tmp_path, "test").labels.tolist() == [0, 0, 1, 1]


def test_both_splits_need_the_same_classes(tmp_path, picture):
    picture(tmp_path / "train" / "a" / "0.png", (8, 8))
    picture(tmp_path / "test" / "b" / "0.png", (8, 8))

    with pytest.raises(InputError, match=r"the same classes .* found no a in"):
        read(tmp_path, "test")


def test_classes_and_their_first_pictures_can_be_read_alone(classed):
    split = folder_of().read(classed, "train", classes=(1,), per_class=2)

    assert split.labels.tolist() == [1, 1]


def test_classes_that_are_not_there_are_refused(classed):
    with pytest.raises(InputError, match="of the classes asked for"):
        folder_of().read(classed, "train", classes=(7,))


def test_pictures_are_resized_by_their_shorter_side_and_cut_to_the_middle(tmp_path):
    values = np.zeros((20, 40), dtype=np.uint8)
    values[:, 10:30] = 255  # The middle, which is all that is left.
    for number in range(10):
        Image.fromarray(values).save(tmp_path / f"{number}.png")

    images = read(tmp_path, size=10).images

    assert images.shape == (9, 1, 10, 10)
    assert (images[:, :, :, 1:-1] == 255).all()


def test_several_sizes_are_refused_and_resized_on_request(flat, picture):
    picture(flat / "wide.png", (8, 12, 3))

    with pytest.raises(InputError, match=r"got 2 sizes .*8 x 8 \(9\), 8 x 12 \(1\)\. Give --size"):
        read(flat)

    assert read(flat, size=6).images.shape == (10, 3, 6, 6)


def test_large_pictures_are_refused_with_the_remedy(tmp_path, picture):
    for number in range(3):
        picture(tmp_path / f"{number}.png", (129, 100))

    with pytest.raises(InputError, match=r"at most 128 x 128, got 129 x 100 .* Give --size"):
        read(tmp_path)


def test_grey_among_colour_is_refused_and_taken_on_request(flat, picture):
    for number in range(5):
        picture(flat / f"grey{number}.png", (8, 8))

    with pytest.raises(InputError, match=r"all grey or all in colour .* Give --colour"):
        read(flat)

    assert read(flat, colour=True).images.shape[1:] == (3, 8, 8)


def test_files_that_are_no_pictures_are_listed_together_and_skipped_on_request(flat):
    for number in range(12):
        (flat / f"text{number:02d}.png").write_text("not a picture")
    broken = flat / "0.jpg"
    broken.write_bytes(broken.read_bytes()[:-40])

    with pytest.raises(InputError, match=r"that are none: .*and \d+ more\. .*--skip-unreadable"):
        read(flat)

    assert 7 <= len(read(flat, skip_unreadable=True).images) <= 9


def test_a_folder_of_nothing_but_text_cannot_be_skipped(tmp_path):
    for number in range(5):
        (tmp_path / f"{number}.png").write_text("not a picture")

    with pytest.raises(InputError, match=r"got 4 files that are none: .*\. Replace them\.$"):
        read(tmp_path, skip_unreadable=True)


def test_pictures_of_more_than_8_bits_are_refused(tmp_path):
    for number in range(2):
        Image.fromarray(np.full((8, 8), 40_000, dtype=np.uint16)).save(tmp_path / f"{number}.png")

    with pytest.raises(InputError, match="its mode is I;16, not 8 bits a value"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda folder: None, r"Expected pictures \(png, jpg\) in .*, found none"),
        (lambda folder: (folder / "a").mkdir(), r"Expected pictures \(png, jpg\) in"),
        (lambda folder: (folder / "notes.txt").write_text("x"), r"Expected pictures \(png, jpg\)"),
    ],
    ids=["empty", "an empty class", "text"],
)
def test_a_folder_without_pictures_is_refused(make, said, tmp_path):
    make(tmp_path)

    with pytest.raises(InputError, match=said):
        read(tmp_path)


def test_an_empty_class_is_named(classed):
    (classed / "birds").mkdir()

    with pytest.raises(InputError, match=r"in every class of .*, found none in: birds"):
        read(classed)


def test_pictures_beside_folders_are_refused(classed, picture):
    picture(classed / "stray.png", (8, 6))

    with pytest.raises(InputError, match="2 folders and 1 pictures beside them"):
        read(classed)


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"Expected a folder at .*missing, found none"):
        read(tmp_path / "missing")


def test_hidden_folders_are_no_classes(classed):
    (classed / ".cache").mkdir()

    assert folder_of().class_names(classed) == ("cats", "dogs")


@pytest.mark.parametrize("size", [0, 129, 2.5])
def test_impossible_sizes_are_refused(size):
    with pytest.raises(PlanError, match="size"):
        folder_of(size=size)
