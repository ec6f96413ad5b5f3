import numpy as np
import pytest
import torch
from PIL import Image

from engine.pretraining.pictures import save_grid, save_samples
from tests.conftest import TinyGenerator, build


def read(path):
    with Image.open(path) as picture:
        return np.asarray(picture)


@pytest.mark.parametrize("channels", [1, 3])
def test_images_lie_row_by_row_in_their_colours(channels, tmp_path):
    images = torch.arange(6.0)[:, None, None, None].expand(6, channels, 50, 100) / 10
    images = images.clone()
    images[:, 0] += 0.4  # Where there are colours, red differs.

    save_grid(images, tmp_path / "new" / "grid.png", columns=3)

    grid = read(tmp_path / "new" / "grid.png")
    zoom = 3
    assert grid.shape[:2] == (100 * zoom, 300 * zoom)
    values = grid[25 * zoom :: 50 * zoom, 50 * zoom :: 100 * zoom].reshape(6, -1)
    for number, value in enumerate(values):
        expected = [number / 10 + 0.4, number / 10, number / 10][:channels]
        np.testing.assert_allclose(value / 255, expected, atol=0.003)


def test_what_does_not_fill_a_row_is_left_out(tmp_path):
    save_grid(torch.zeros(5, 1, 500, 500), tmp_path / "grid.png", columns=2)

    assert read(tmp_path / "grid.png").shape == (1000, 1000)


def test_samples_are_a_column_a_class_and_always_the_same(tmp_path):
    generator = build(TinyGenerator, 2)
    generator.train()

    for name in ("a.png", "b.png"):
        save_samples(generator, tmp_path / name, seed=1)
    save_samples(generator, tmp_path / "other.png", seed=2)

    first, again, other = (read(tmp_path / name) for name in ("a.png", "b.png", "other.png"))
    assert first.shape[1] / first.shape[0] == 4 / 8
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert generator.training
