import pytest

from engine.datasets import DATASETS

LAYOUTS = {"fashion-mnist": ((1, 28, 28), 10), "cifar10": ((3, 32, 32), 10)}


@pytest.mark.parametrize("name", DATASETS.names())
def test_every_data_set_says_whose_it_is_and_what_to_fetch(name):
    dataset = DATASETS.make(name)

    for text in (dataset.source, dataset.licence, dataset.guidance, type(dataset).__doc__):
        assert text


@pytest.mark.parametrize("name", LAYOUTS)
def test_images_and_classes_are_known_beforehand(name):
    dataset = DATASETS.make(name)

    assert (dataset.image_shape, len(dataset.classes)) == LAYOUTS[name]
