from typing import ClassVar

from tests.contracts.defense import DefenseContract


class TestNoDefense(DefenseContract):
    name = "none"


class TestClipping(DefenseContract):
    name = "clipping"
    settings: ClassVar = {"max_norm": 0.5}


class TestClippingPerLayer(DefenseContract):
    name = "clipping_per_layer"
    settings: ClassVar = {"max_norm": 0.2}


class TestSparsification(DefenseContract):
    name = "sparsification"
    settings: ClassVar = {"percent": 70}


class TestGaussianNoise(DefenseContract):
    name = "gaussian_noise"
    settings: ClassVar = {"std": 0.1}

    # A batch and its rows draw other noise.
    test_a_client_is_defended_by_itself_alone = None


class TestSoteria(DefenseContract):
    name = "soteria"
    settings: ClassVar = {"percent": 50}
