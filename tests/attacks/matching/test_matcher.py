import pytest
import torch
from torch import nn

from engine.attacks.matching import Matcher, Observation, make_matcher
from engine.errors import UnsupportedModelError
from engine.federation import make_target_model
from engine.federation.client import LocalTraining
from tests.attacks.matching import oracle
from tests.attacks.matching.oracle import assert_close
from tests.conftest import CLASSES, IMAGE_SHAPE, TinyNet, build, seeded

SHAPE = (1, 5, 5)


class Functional(nn.Module):
    """Uses a weight outside its layer, which only autograd follows."""

    def __init__(self):
        super().__init__()
        self.hidden = nn.Linear(25, 25)
        self.readout = nn.Linear(25, CLASSES)

    def forward(self, images):
        hidden = nn.functional.linear(images.flatten(1), self.hidden.weight, self.hidden.bias)
        return self.readout(hidden.tanh())


class Choosy(Functional):
    """Looks at its values besides, which torch.func cannot batch."""

    def forward(self, images):
        return super().forward(images) * (1.0 if images.sum() > 0 else 2.0)


def data(examples, shape=SHAPE):
    pixels = torch.rand(examples, *shape, generator=seeded(6), dtype=torch.float64)
    return pixels, torch.arange(examples) % CLASSES


def assert_updates(found, expected):
    assert list(found.tensors) == list(expected.tensors)
    for name, tensor in expected.tensors.items():
        assert_close(found.tensors[name], tensor)


def test_where_the_rules_hold_kernels_compare():
    matcher = Matcher(build(TinyNet, 0), IMAGE_SHAPE)

    assert matcher.has_kernels
    assert (str(matcher), matcher.why_general) == ("kernels", "")


def test_a_relu_at_the_edge_of_rounding_does_not_speak_against_the_kernels():
    # Of this one, an image of the first pair tried has one: single and batched passes of autograd
    # differ by 2 % there, by a millionth for others.
    model = make_target_model("resnet18", image_shape=(3, 32, 32), classes=2, seed=0)

    assert str(Matcher(model, (3, 32, 32))) == "kernels"


def test_a_layer_without_a_rule_is_named():
    model = nn.Sequential(nn.Flatten(), nn.PReLU(25), nn.Linear(25, CLASSES))

    matcher = Matcher(build(lambda: model, 0), SHAPE)

    assert str(matcher) == "kernels; one gradient a candidate for 1 (PReLU), which have no rule"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (Functional, "hidden.bias, hidden.weight is used outside a layer of its own"),
        (Choosy, "one candidate at a time, since torch.func cannot batch it"),
    ],
)
@pytest.mark.parametrize("images", [1, 4])
def test_where_they_do_not_hold_the_model_is_differentiated_and_the_reason_is_said(
    make, said, images
):
    model = build(make, 0).double()

    matcher = Matcher(model, SHAPE, images_per_candidate=images)

    assert not matcher.has_kernels
    assert said in matcher.why_general
    assert str(matcher).startswith("one gradient of the whole model a candidate: ")
    pixels, labels = data(3 * images)
    assert_updates(matcher.updates(pixels, labels), oracle.updates(model, pixels, labels, 3))


@pytest.mark.parametrize("make", [TinyNet, Choosy])
def test_several_local_steps_are_a_short_training_of_every_candidate(make):
    model = build(make, 0).double()
    shape = IMAGE_SHAPE if make is TinyNet else SHAPE
    training = LocalTraining(steps=3, learning_rate=0.1)
    pixels, labels = data(6, shape)

    matcher = Matcher(model, shape, images_per_candidate=2, training=training)

    assert "after the first of 3 steps" in matcher.why_general
    expected = oracle.trained_updates(model, pixels, labels, 3, steps=3, learning_rate=0.1)
    for name, tensor in matcher.updates(pixels, labels).tensors.items():
        torch.testing.assert_close(tensor, expected.tensors[name])


def test_moments_are_those_of_the_updates():
    model = build(TinyNet, 0).double()
    pixels, labels = data(8, IMAGE_SHAPE)
    matcher = Matcher(model, IMAGE_SHAPE, images_per_candidate=2)
    updates = matcher.updates(pixels, labels)
    observed = updates.map(lambda tensor: tensor[:1] + 0.01)

    [found] = matcher.moments(pixels, labels, [(Observation(observed), 4)])

    torch.testing.assert_close(found.squared, updates.squared_norms())


@pytest.mark.parametrize(
    ("make", "shape", "message"),
    [
        (lambda: TinyNet().train(), IMAGE_SHAPE, "training mode"),
        (lambda: TinyNet().eval().requires_grad_(False), IMAGE_SHAPE, "trainable parameters"),
        (lambda: TinyNet().eval(), (3, 40, 40), r"images of shape \(3, 40, 40\).*refuses them"),
    ],
)
def test_a_model_that_has_no_update_is_refused_in_words(make, shape, message):
    with pytest.raises(UnsupportedModelError, match=message):
        Matcher(make(), shape)


class Starved(TinyNet):
    """Finds no memory from its n-th pass on."""

    def __init__(self, passes):
        super().__init__()
        self.left = passes

    def forward(self, images):
        self.left -= 1
        if self.left < 0:
            raise RuntimeError("could not create a primitive")
        return super().forward(images)


@pytest.mark.parametrize("passes", [0, 1, 2])
def test_a_want_of_memory_is_not_laid_at_the_models_door(passes):
    with pytest.raises(RuntimeError, match="could not create a primitive") as raised:
        Matcher(Starved(passes).eval(), IMAGE_SHAPE)

    assert not isinstance(raised.value, UnsupportedModelError)


def test_a_process_makes_the_matcher_of_a_model_once():
    model = build(TinyNet, 0)

    assert make_matcher(model, IMAGE_SHAPE) is make_matcher(model, IMAGE_SHAPE)
    assert make_matcher(model, IMAGE_SHAPE) is not make_matcher(
        model, IMAGE_SHAPE, images_per_candidate=2
    )


def test_updates_ask_for_more_memory_than_moments(monkeypatch):
    monkeypatch.setattr("engine.attacks.matching.chunks._free_bytes", lambda _: 10**8)
    matcher = Matcher(build(TinyNet, 0), IMAGE_SHAPE)

    assert matcher.chunks(updates=True).size < matcher.chunks(updates=False).size
    assert matcher.chunks(updates=True) is matcher.chunks(updates=True)
