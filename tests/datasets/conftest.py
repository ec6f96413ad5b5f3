import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def picture():
    """Writes a picture of random values, ``(H, W)`` or ``(H, W, 3)``, and returns these."""

    def write(path, shape, seed=0):
        path.parent.mkdir(parents=True, exist_ok=True)
        values = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
        Image.fromarray(values).save(path)
        return values

    return write
