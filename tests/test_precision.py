import subprocess
import sys

import pytest
import torch
from torch import nn

from engine.attacks.matching import Matcher, Observation
from engine.defenses import ClientContext
from engine.defenses.soteria import sensitivity_ratios
from engine.federation import compute_update, find_head
from engine.precision import tensor_float
from engine.scoring.oracle import project
from tests.conftest import IMAGE_SHAPE, LATENT_DIM, TinyGenerator, TinyNet, build, seeded


def flags():
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


@pytest.fixture
def allowed():
    """A process that lets products be rounded, as users may have set."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("medium")
    torch.backends.cudnn.allow_tf32 = True
    yield
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]


class Watched(nn.Module):
    """Notes what products may do whenever it is run."""

    def __init__(self):
        super().__init__()
        self.inner = TinyNet()
        self.seen = set()

    def forward(self, images):
        self.seen.add(flags())
        return self.inner(images)


class WatchedGenerator(TinyGenerator):
    """Notes it whenever images are made."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def forward(self, latents, labels):
        self.seen.add(flags())
        return super().forward(latents, labels)


@pytest.mark.parametrize("rounded", [True, False])
def test_products_are_rounded_inside_alone(rounded, allowed):
    with tensor_float(rounded):
        assert flags() == (rounded, rounded)

    assert flags() == (True, True)
    assert torch.get_float32_matmul_precision() == "medium"


def test_what_was_set_before_returns_after_an_error(allowed):
    with pytest.raises(ZeroDivisionError), tensor_float(False):
        raise ZeroDivisionError

    assert flags() == (True, True)


def test_clients_compute_in_single_precision(images, labels, allowed):
    model = build(Watched, 0)

    compute_update(model, images, labels)
    compute_update(model, images[:1], labels[:1])

    assert model.seen == {(False, False)}


def test_candidates_are_compared_in_single_precision(images, labels, allowed):
    model = build(Watched, 0)
    observed = compute_update(model, images[:1], labels[:1])

    matcher = Matcher(model, IMAGE_SHAPE)
    seen = next(m for m in matcher._kernels._tape._model.modules() if isinstance(m, Watched)).seen
    matcher.updates(images, labels)
    matcher.moments(images, labels, [(Observation(observed), len(images))])

    assert matcher.has_kernels
    assert model.seen | seen == {(False, False)}
    assert flags() == (True, True)


def test_the_oracle_and_the_clients_mask_are_computed_in_single_precision(images, labels, allowed):
    model, generator = build(Watched, 0), build(WatchedGenerator, 0)

    client = ClientContext(model, find_head(model, IMAGE_SHAPE), images, labels)
    model.seen.clear()

    project(generator, images, labels, latent_dim=LATENT_DIM, rng=seeded(0), steps=2)
    sensitivity_ratios(client)

    assert generator.seen == model.seen == {(False, False)}


def test_an_interface_that_cannot_be_mixed_with_is_named():
    code = """
import torch
from engine.errors import InfrastructureError
from engine.precision import tensor_float
torch.backends.cudnn.conv.fp32_precision = "ieee"
try:
    with tensor_float(False):
        raise SystemExit("not refused")
except InfrastructureError as error:
    assert "set by fp32_precision" in str(error)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
