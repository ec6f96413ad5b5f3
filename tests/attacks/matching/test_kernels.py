import pytest
import torch
from torch import nn
from torch.nn import functional

from engine.attacks.matching import Kernels, Observation
from engine.errors import UnsupportedModelError
from engine.federation import make_target_model
from tests.attacks.matching import oracle
from tests.attacks.matching.oracle import assert_close, random_mask, settled
from tests.conftest import build, seeded

CLASSES = 4


class Residual(nn.Module):
    """Convolutions with shortcuts, one of them added in place, and activations in place."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 3, 3, padding=1)
        self.body = nn.Conv2d(3, 3, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(3)
        self.last = nn.Conv2d(3, 3, 1)
        self.readout = nn.Linear(75, CLASSES)

    def forward(self, images):
        stem = functional.relu(self.stem(images), inplace=True)
        maps = self.norm(self.body(stem))
        maps += stem
        maps = functional.relu_(maps)
        return self.readout((self.last(maps) + maps).flatten(1))


class Twice(nn.Module):
    """One layer used two times, on inputs of two sizes, beside others used once."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 2, 3, padding=1)
        self.again = nn.Conv2d(2, 2, 3, padding=1)
        self.norm = nn.GroupNorm(1, 2)
        self.readout = nn.Linear(18, CLASSES)

    def forward(self, images):
        maps = self.norm(self.again(self.stem(images).sin()))
        maps = self.norm(self.again(functional.max_pool2d(maps, 2)))
        return self.readout(maps.flatten(1))


class Tied(nn.Module):
    """Reads pixels as tokens; the embedding's weight reads out the classes too."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(CLASSES, 6)
        self.mix = nn.Linear(6, 6)
        self.narrow = nn.Linear(6, 6, bias=False)
        self.readout = nn.Linear(6, CLASSES)
        self.readout.weight = self.embedding.weight
        self.narrow.weight = self.mix.weight

    def forward(self, images):
        tokens = self.embedding((images.flatten(1) * CLASSES).long())
        return self.readout(self.narrow(self.mix(tokens).tanh()).mean(1))


class Tokens(nn.Module):
    """A layer of a transformer on the rows of an image, behind a class token of the model's own.

    The layer is used ``times`` times.
    """

    def __init__(self, times=1):
        super().__init__()
        self.times = times
        self.token = nn.Parameter(torch.randn(1, 1, 6))
        self.embed = nn.Linear(5, 6)
        self.layer = nn.TransformerEncoderLayer(6, 2, 8, batch_first=True)
        self.readout = nn.Linear(6, CLASSES)

    def forward(self, images):
        tokens = torch.cat([self.token.expand(len(images), -1, -1), self.embed(images[:, 0])], 1)
        for _ in range(self.times):
            tokens = self.layer(tokens)
        return self.readout(tokens[:, 0])


class Stack(nn.Module):
    """torch's own stack of such layers."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(5, 1, 8, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.readout = nn.Linear(25, CLASSES)

    def forward(self, images):
        return self.readout(self.layers(images[:, 0]).flatten(1))


class Scalars(nn.Module):
    """A layer with a parameter that has no axes, used ``times`` times."""

    def __init__(self, times=1):
        super().__init__()
        scale = Scale()
        self.scales = nn.Sequential(*[scale for _ in range(times)])
        self.readout = nn.Linear(25, CLASSES)

    def forward(self, images):
        return self.readout(self.scales(images).flatten(1))


class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(0.7))

    def forward(self, inputs):
        return self.factor * inputs.exp()


def sequential(*layers):
    return nn.Sequential(*layers)


def mobile():
    return sequential(
        nn.Conv2d(1, 4, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU6(inplace=True),
        nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU6(inplace=True),
        nn.Conv2d(4, 6, 1, bias=False),
        nn.BatchNorm2d(6),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, CLASSES),
    )


def perceptron():
    return sequential(
        nn.Flatten(),
        nn.Linear(25, 7),
        nn.BatchNorm1d(7),
        nn.ReLU(inplace=True),
        nn.LayerNorm(7),
        nn.PReLU(7),
        nn.Linear(7, CLASSES),
    )


def partly_frozen():
    model = Residual()
    for parameter in (model.stem.weight, model.body.weight, model.norm.bias, model.last.bias):
        parameter.requires_grad_(False)
    return model


def partly_frozen_tokens():
    model = Tokens()
    model.layer.self_attn.in_proj_weight.requires_grad_(False)
    model.layer.self_attn.out_proj.bias.requires_grad_(False)
    return model


def torchvision_resnet18():
    from torchvision.models import resnet18

    return resnet18(num_classes=CLASSES)


def target_model(name, image_shape):
    return lambda: make_target_model(name, image_shape=image_shape, classes=CLASSES, seed=0)


class SmallMaps(nn.Module):
    """Ends on maps so small that kernels meet little but padding."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 3, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.down = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.last = nn.Conv2d(4, 4, 5, padding=2, bias=False)
        self.readout = nn.Linear(4, CLASSES)

    def forward(self, images):
        maps = functional.relu_(self.down(self.norm(self.stem(images)).relu()))
        return self.readout((self.last(maps) + maps).flatten(1))


MODELS = {
    "maps smaller than kernels": (SmallMaps, (1, 4, 4)),
    "lenet": (target_model("lenet", (1, 12, 12)), (1, 12, 12)),
    "resnet18 of small images": (target_model("resnet18", (3, 8, 8)), (3, 8, 8)),
    "resnet18 of torchvision": (torchvision_resnet18, (3, 32, 32)),
    "residual": (Residual, (1, 5, 5)),
    "a layer used twice": (Twice, (1, 6, 6)),
    "tied weights": (Tied, (1, 3, 3)),
    "transformer": (Tokens, (1, 5, 5)),
    "transformer layer used twice": (lambda: Tokens(2), (1, 5, 5)),
    "stack of transformer layers": (Stack, (1, 5, 5)),
    "depthwise": (mobile, (1, 7, 7)),
    "perceptron": (perceptron, (1, 5, 5)),
    "a number as parameter": (Scalars, (1, 5, 5)),
    "a number as parameter, used twice": (lambda: Scalars(2), (1, 5, 5)),
    "partly frozen": (partly_frozen, (1, 5, 5)),
    "partly frozen transformer": (partly_frozen_tokens, (1, 5, 5)),
}


@pytest.fixture(scope="module", params=MODELS)
def case(request):
    make, image_shape = MODELS[request.param]
    model = settled(build(make, 1).double())
    return model, Kernels(model, image_shape), image_shape


def data(candidates, images, image_shape):
    examples = candidates * images
    pixels = torch.rand(examples, *image_shape, generator=seeded(6), dtype=torch.float64)
    return pixels, torch.arange(examples) % CLASSES


def observe(expected, mask="no mask", *, seed=7):
    """Returns an observation of random values, and the mask of each tensor."""
    values = {
        name: torch.randn(1, *tensor.shape[1:], generator=seeded(seed), dtype=torch.float64)
        for name, tensor in expected.tensors.items()
    }
    masks = {
        name: random_mask(mask, tensor.shape[1:])
        for name, tensor in expected.tensors.items()
        if mask != "no mask"
    }
    return Observation(type(expected)(values), masks)


def assert_moments(found, expected, observation):
    for column, (name, tensor) in enumerate(expected.tensors.items()):
        values, mask = observation.update.tensors[name][0], observation.masks.get(name)
        squared, gap = oracle.moments(tensor, values, mask)
        assert_close(found.squared[:, column], squared)
        torch.testing.assert_close(found.gap[:, column], gap, rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(found.target[column], values.square().sum())


@pytest.mark.parametrize(("candidates", "images"), [(3, 1), (1, 1), (2, 4)])
def test_updates_are_those_of_one_backward_pass_a_candidate(case, candidates, images):
    model, kernels, image_shape = case
    pixels, labels = data(candidates, images, image_shape)

    found = kernels.updates(pixels, labels, candidates)

    expected = oracle.updates(model, pixels, labels, candidates)
    assert list(found.tensors) == list(expected.tensors)
    for name, tensor in expected.tensors.items():
        assert_close(found.tensors[name], tensor)


@pytest.mark.parametrize("mask", ["no mask", "dense", "sparse", "one factor a column"])
@pytest.mark.parametrize(("candidates", "images"), [(3, 1), (2, 4)])
def test_moments_are_those_of_one_backward_pass_a_candidate(case, candidates, images, mask):
    model, kernels, image_shape = case
    pixels, labels = data(candidates, images, image_shape)
    expected = oracle.updates(model, pixels, labels, candidates)
    observation = observe(expected, mask)

    [found] = kernels.moments(pixels, labels, [(observation, candidates)])

    assert_moments(found, expected, observation)


def test_candidates_of_several_observations_in_one_pass_have_the_moments_of_separate_ones(case):
    model, kernels, image_shape = case
    pixels, labels = data(4, 2, image_shape)
    expected = oracle.updates(model, pixels, labels, 4)
    plain, masked = observe(expected, seed=8), observe(expected, "dense", seed=9)

    first, second = kernels.moments(pixels, labels, [(plain, 1), (masked, 3)])

    assert_moments(first, expected.map(lambda tensor: tensor[:1]), plain)
    assert_moments(second, expected.map(lambda tensor: tensor[1:]), masked)


def test_a_pass_leaves_model_and_arguments_alone(case):
    model, kernels, image_shape = case
    pixels, labels = data(2, 1, image_shape)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    kept, trainable = pixels.clone(), [p.requires_grad for p in model.parameters()]
    fast = torch.backends.mha.get_fastpath_enabled()

    found = kernels.updates(pixels, labels, 2)

    assert torch.equal(pixels, kept)
    assert [p.requires_grad for p in model.parameters()] == trainable
    assert not any(p.grad is not None for p in model.parameters())
    assert not any(tensor.requires_grad for tensor in found.tensors.values())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.backends.mha.get_fastpath_enabled() == fast


@pytest.mark.parametrize("name", ["lenet", "depthwise"])
def test_moments_in_single_precision_are_near_those_in_double(name):
    make, image_shape = MODELS[name]
    model = settled(build(make, 1))
    pixels, labels = data(3, 1, image_shape)
    expected = oracle.updates(settled(build(make, 1)).double(), pixels, labels, 3)
    observation = observe(expected)

    [found] = Kernels(model, image_shape).moments(
        pixels.float(), labels, [(Observation(observation.update.map(torch.Tensor.float)), 3)]
    )

    squared = expected.squared_norms()
    assert found.squared.dtype == found.gap.dtype == found.target.dtype == torch.float64
    torch.testing.assert_close(found.squared, squared, rtol=1e-4, atol=1e-6)


def test_weights_that_change_later_are_those_of_the_model():
    model = build(Residual, 1).double()
    kernels = Kernels(model, (1, 5, 5))
    pixels, labels = data(2, 1, (1, 5, 5))

    with torch.no_grad():
        model.stem.weight.mul_(-2)

    found = kernels.updates(pixels, labels, 2)
    expected = oracle.updates(model, pixels, labels, 2)
    assert_close(found.tensors["readout.weight"], expected.tensors["readout.weight"])


@pytest.mark.parametrize(
    ("name", "general"),
    [
        ("lenet", ()),
        ("perceptron", ("5 (PReLU)",)),
        ("a number as parameter, used twice", ("scales.0 (Scale)",)),
    ],
)
def test_layers_without_a_rule_are_named(name, general):
    make, image_shape = MODELS[name]

    kernels = Kernels(build(make, 1), image_shape)

    assert kernels.general_layers == general


class Functional(nn.Module):
    """Uses a layer's weight without calling the layer; ``also`` calls it besides."""

    def __init__(self, *, also=False):
        super().__init__()
        self.also = also
        self.hidden = nn.Linear(25, 25)
        self.readout = nn.Linear(25, CLASSES)

    def forward(self, images):
        pixels = images.flatten(1)
        hidden = functional.linear(pixels, self.hidden.weight, self.hidden.bias)
        return self.readout(hidden + (self.hidden(pixels) if self.also else 0))


class Centred(nn.Module):
    """Subtracts from every example the mean over all of them."""

    def forward(self, inputs):
        return inputs - inputs.mean(0)


class CentredLinear(nn.Linear):
    """Does so inside a layer with parameters."""

    def forward(self, inputs):
        return super().forward(inputs - inputs.mean(0))


class WithPositions(nn.Module):
    """Embeds places in the image, whatever the image: inputs without an axis of examples."""

    def __init__(self):
        super().__init__()
        self.positions = nn.Embedding(4, 6)
        self.readout = nn.Linear(24, CLASSES)

    def forward(self, images):
        places = self.positions(torch.arange(4))
        return self.readout((images[:, 0].sin() * places).flatten(1))


@pytest.mark.parametrize(
    ("make", "image_shape", "why"),
    [
        (Functional, (1, 5, 5), "hidden.bias, hidden.weight is used outside a layer of its own"),
        (lambda: Functional(also=True), (1, 5, 5), "gradient of hidden.weight is not autograd's"),
        (
            lambda: sequential(nn.Flatten(), nn.Linear(25, 6), Centred(), nn.Linear(6, CLASSES)),
            (1, 5, 5),
            "is not autograd's",
        ),
        (
            lambda: sequential(nn.Flatten(), nn.Linear(25, 6), CentredLinear(6, CLASSES)),
            (1, 5, 5),
            "is not autograd's",
        ),
        (WithPositions, (1, 4, 6), "gradient of positions.weight is not autograd's"),
    ],
)
def test_models_the_rules_do_not_hold_for_are_refused(make, image_shape, why):
    model = build(make, 1).double()

    with pytest.raises(UnsupportedModelError, match=why):
        Kernels(model, image_shape)
