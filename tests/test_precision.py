import pytest
import torch
from torch import nn

from engine.attacks.matching import Matcher, Observation
from engine.federation import compute_update
from engine.precision import tensor_float
from tests.conftest import IMAGE_SHAPE, TinyNet, build


def flags():
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


@pytest.fixture
def allowed():
    """A process that lets products be rounded, as users may have set."""
    before = flags()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


class Watched(nn.Module):
    """Notes what products may do whenever it is run."""

    def __init__(self):
        super().__init__()
        self.inner = TinyNet()
        self.seen = set()

    def forward(self, images):
        self.seen.add(flags())
        return self.inner(images)


@pytest.mark.parametrize("rounded", [True, False])
def test_products_are_rounded_inside_alone(rounded, allowed):
    with tensor_float(rounded):
        assert flags() == (rounded, rounded)

    assert flags() == (True, True)


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
