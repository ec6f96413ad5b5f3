from tests.contracts.defense import DefenseContract


class TestNoDefense(DefenseContract):
    name = "none"


class TestClipping(DefenseContract):
    name = "clipping"
    settings = {"max_norm": 0.5}


class TestClippingPerLayer(DefenseContract):
    name = "clipping_per_layer"
    settings = {"max_norm": 0.2}


class TestSparsification(DefenseContract):
    name = "sparsification"
    settings = {"percent": 70}


class TestGaussianNoise(DefenseContract):
    name = "gaussian_noise"
    settings = {"std": 0.1}

    # A batch and its rows draw other noise.
    test_a_client_is_defended_by_itself_alone = None


class TestSoteria(DefenseContract):
    name = "soteria"
    settings = {"percent": 50}
