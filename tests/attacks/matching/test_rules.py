import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from engine.attacks.matching import Kernels, Place, products
from engine.attacks.matching.products import contribution, gram_norms
from engine.attacks.matching.rules import (
    AnyLayerRule,
    attention,
    batch_norm,
    convolution,
    embedding,
    group_norm,
    layer_norm,
    linear,
)
from tests.attacks.matching import oracle
from tests.attacks.matching.oracle import assert_close, layer_pass
from tests.conftest import build, seeded
from tests.contracts.rule import (
    ConvolutionContract,
    ProductRuleContract,
    RuleContract,
    SingleGroupContract,
    assert_contributes,
    observe,
)

LINEAR = {
    "plain": (lambda: nn.Linear(5, 3), (5,)),
    "no bias": (lambda: nn.Linear(5, 3, bias=False), (5,)),
    "one output": (lambda: nn.Linear(5, 1), (2, 5)),
    "an axis more": (lambda: nn.Linear(4, 3), (6, 4)),
    "two axes more": (lambda: nn.Linear(2, 5, bias=False), (2, 3, 2)),
}

CONVOLUTIONS = {
    "3x3": (lambda: nn.Conv2d(2, 3, 3), (2, 5, 6)),
    "no bias": (lambda: nn.Conv2d(2, 3, 3, padding=1, bias=False), (2, 4, 4)),
    "1x1": (lambda: nn.Conv2d(3, 2, 1), (3, 3, 4)),
    "1x1, stride": (lambda: nn.Conv2d(3, 2, 1, stride=2), (3, 5, 4)),
    "one output channel": (lambda: nn.Conv2d(2, 1, 3, padding=1), (2, 4, 4)),
    "not square": (
        lambda: nn.Conv2d(2, 3, (2, 3), stride=(3, 2), padding=(1, 2), dilation=(2, 1)),
        (2, 7, 6),
    ),
    "dilation": (lambda: nn.Conv2d(1, 2, 3, dilation=(1, 2), padding=2), (1, 5, 4)),
    "pixels no patch meets": (lambda: nn.Conv2d(2, 2, 2, stride=3), (2, 7, 9)),
    "one pixel": (lambda: nn.Conv2d(4, 3, 3, padding=1), (4, 1, 1)),
    "one pixel, dilation": (lambda: nn.Conv2d(4, 3, 3, padding=2, dilation=2, stride=2), (4, 1, 1)),
    "one pixel, off centre": (lambda: nn.Conv2d(4, 3, 2, padding=1, stride=2), (4, 1, 1)),
    "one pixel, many outputs": (lambda: nn.Conv2d(2, 3, 3, padding=2), (2, 1, 1)),
    "one output position": (lambda: nn.Conv2d(2, 3, 3), (2, 3, 3)),
    "map smaller than the kernel": (lambda: nn.Conv2d(2, 3, 5, padding=2), (2, 2, 3)),
    "padding by name": (lambda: nn.Conv2d(2, 3, (3, 5), padding="same"), (2, 4, 4)),
    "no padding by name": (lambda: nn.Conv2d(2, 3, 3, padding="valid"), (2, 4, 4)),
    "one pixel, padding by name": (lambda: nn.Conv2d(2, 3, 3, padding="same"), (2, 1, 1)),
    "reflected": (lambda: nn.Conv2d(2, 3, 3, padding=(1, 2), padding_mode="reflect"), (2, 4, 4)),
    "circular": (lambda: nn.Conv2d(2, 3, 3, padding=(2, 1), padding_mode="circular"), (2, 4, 4)),
    "one pixel, replicated": (
        lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="replicate"),
        (2, 1, 1),
    ),
    "1d": (lambda: nn.Conv1d(2, 3, 3, stride=2, padding=1, dilation=2), (2, 9)),
    "1d, one pixel": (lambda: nn.Conv1d(3, 2, 3, padding=1), (3, 1)),
    "1d, padding by name": (lambda: nn.Conv1d(2, 3, 5, padding="same", dilation=2), (2, 4)),
    "1d, circular": (lambda: nn.Conv1d(2, 3, 3, padding=2, padding_mode="circular"), (2, 4)),
}

GROUPED_CONVOLUTIONS = {
    "two groups": (lambda: nn.Conv2d(4, 6, 3, stride=(1, 2), padding=1, groups=2), (4, 4, 5)),
    "depthwise": (lambda: nn.Conv2d(3, 3, 3, padding=1, groups=3, bias=False), (3, 4, 4)),
    "depthwise, twice the channels": (lambda: nn.Conv2d(3, 6, 2, groups=3, dilation=2), (3, 4, 4)),
    "one pixel": (lambda: nn.Conv2d(4, 2, 3, padding=1, groups=2), (4, 1, 1)),
    "reflected": (
        lambda: nn.Conv2d(2, 4, 3, padding=1, groups=2, padding_mode="reflect"),
        (2, 3, 4),
    ),
    "1d, depthwise": (lambda: nn.Conv1d(3, 3, 3, padding=1, groups=3), (3, 5)),
}

BATCH_NORMS = {
    "1d, features": (lambda: nn.BatchNorm1d(4), (4,)),
    "1d": (lambda: nn.BatchNorm1d(2, eps=0.1), (2, 5)),
    "2d": (lambda: nn.BatchNorm2d(3), (3, 2, 4)),
    "3d": (lambda: nn.BatchNorm3d(2), (2, 2, 1, 3)),
}

GROUP_NORMS = {
    "features": (lambda: nn.GroupNorm(2, 4), (4,)),
    "1d": (lambda: nn.GroupNorm(1, 4, eps=0.1), (4, 5)),
    "2d": (lambda: nn.GroupNorm(3, 6), (6, 2, 3)),
}

LAYER_NORMS = {
    "features": (lambda: nn.LayerNorm(5), (5,)),
    "no bias": (lambda: nn.LayerNorm(4, bias=False, eps=0.1), (3, 4)),
    "two axes": (lambda: nn.LayerNorm((3, 4)), (2, 3, 4)),
}

EMBEDDINGS = {
    "tokens": (lambda: nn.Embedding(7, 8), (5,)),
    "a token each": (lambda: nn.Embedding(7, 3), ()),
    "two axes": (lambda: nn.Embedding(5, 3), (2, 3)),
    "padding": (lambda: nn.Embedding(6, 9, padding_idx=-5), (6,)),
}


class Affine(nn.Module):
    """A layer nobody has a rule for: parameters of its own around a layer that has one."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.rand(4))
        self.shift = nn.Parameter(torch.rand(()))
        self.inner = nn.Linear(4, 4)

    def forward(self, inputs):
        return self.inner(inputs * self.scale.sin()) * self.scale + self.shift


OTHERS = {
    "PReLU": (lambda: nn.PReLU(3), (3, 2, 2)),
    "Conv3d": (lambda: nn.Conv3d(1, 2, 2), (1, 2, 3, 3)),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(2, 3, 3, stride=2), (2, 3, 2)),
    "custom": (Affine, (2, 4)),
    "subclass of Linear": (lambda: Cosines(5, 3), (5,)),
}


class Cosines(nn.Linear):
    """Not what a Linear computes, though it is one."""

    def forward(self, inputs):
        return super().forward(inputs).cos()


class TestLinear(SingleGroupContract):
    rule = linear.LinearRule

    @pytest.fixture(params=LINEAR)
    def case(self, request):
        return LINEAR[request.param]


class TestConvolution(SingleGroupContract, ConvolutionContract):
    rule = convolution.ConvolutionRule

    @pytest.fixture(params=CONVOLUTIONS)
    def case(self, request):
        return CONVOLUTIONS[request.param]


class TestGroupedConvolution(ProductRuleContract, ConvolutionContract):
    rule = convolution.ConvolutionRule

    @pytest.fixture(params=GROUPED_CONVOLUTIONS)
    def case(self, request):
        return GROUPED_CONVOLUTIONS[request.param]


class TestBatchNorm(RuleContract):
    rule = batch_norm.BatchNormRule

    @pytest.fixture(params=BATCH_NORMS)
    def case(self, request):
        return BATCH_NORMS[request.param]


class TestGroupNorm(RuleContract):
    rule = group_norm.GroupNormRule

    @pytest.fixture(params=GROUP_NORMS)
    def case(self, request):
        return GROUP_NORMS[request.param]


class TestLayerNorm(RuleContract):
    rule = layer_norm.LayerNormRule

    @pytest.fixture(params=LAYER_NORMS)
    def case(self, request):
        return LAYER_NORMS[request.param]


class TestEmbedding(RuleContract):
    rule = embedding.EmbeddingRule

    @pytest.fixture(params=EMBEDDINGS)
    def case(self, request):
        return EMBEDDINGS[request.param]

    @staticmethod
    def draw(inputs):
        return (inputs.abs() * 3).long().clamp(max=4)


class TestAnyLayer(RuleContract):
    rule = AnyLayerRule

    @pytest.fixture(params=OTHERS)
    def case(self, request):
        return OTHERS[request.param]


def size_of(draw, *, kernel, padding, dilation):
    """Draws a size of the map for which there is at least one output."""
    fewest = max(1, dilation * (kernel - 1) + 1 - 2 * padding)
    return draw(st.integers(fewest, fewest + 4))


@st.composite
def geometries(draw):
    """Draws a convolution's arguments and the shape of its maps."""
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    channels = [groups * draw(st.integers(1, 2)) for _ in range(2)]
    kernel, stride, dilation = (
        draw(st.tuples(st.integers(1, 3), st.integers(1, 3))) for _ in range(3)
    )
    padding = draw(st.tuples(st.integers(0, 3), st.integers(0, 3)))
    size = [
        size_of(draw, kernel=kernel[axis], padding=padding[axis], dilation=dilation[axis])
        for axis in range(2)
    ]
    return (*channels, kernel, stride, padding, dilation, groups), (channels[0], *size)


@given(geometry=geometries(), images=st.integers(1, 2))
def test_convolutions_of_every_geometry_have_the_moments_of_their_gradients(geometry, images):
    arguments, shape = geometry
    run = layer_pass(lambda: nn.Conv2d(*arguments), shape, images=images)
    factors = convolution.ConvolutionFactors(*run.arguments, run.candidates)

    assert_close(factors.gradients(), run.gradients["weight"])
    assert_close(gram_norms(factors), oracle.moments(run.gradients["weight"], 0)[0])
    for mask in ("no mask", "sparse"):
        observation = observe(run.gradients, mask)
        found = contribution(factors, observation.target(Place("weight")))
        assert_contributes(found, run.gradients, observation, "weight")


@settings(max_examples=25)
@given(sizes=st.tuples(*[st.sampled_from([1, 2, 9, 70])] * 3), mask=st.sampled_from(oracle.MASKS))
def test_the_moments_of_linear_layers_of_every_size_are_those_of_their_gradients(sizes, mask):
    positions, columns, rows = sizes
    run = layer_pass(lambda: nn.Linear(columns, rows), (positions, columns))
    observation = observe(run.gradients, mask)

    found = contribution(
        linear.LinearFactors(*run.arguments[1:], run.candidates),
        observation.target(Place("weight")),
    )

    assert_contributes(found, run.gradients, observation, "weight")


@pytest.mark.parametrize(
    ("positions", "mask", "cheapest"),
    [
        (1, "no mask", "_outer"),
        (2, "no mask", "gram_norms"),
        (500, "no mask", "_explicit"),
        (1, "dense", "_outer"),
        (2, "dense", "masked_norms"),
        (500, "dense", "_explicit"),
    ],
)
def test_the_cheapest_way_is_taken(positions, mask, cheapest, monkeypatch):
    run = layer_pass(lambda: nn.Linear(20, 30), (positions, 20))
    factors = linear.LinearFactors(*run.arguments[1:], run.candidates)
    taken = []
    for name in ("gram_norms", "masked_norms", "_explicit", "_outer"):
        way = getattr(products, name)
        monkeypatch.setattr(products, name, lambda *a, n=name, w=way: taken.append(n) or w(*a))

    target = observe(run.gradients, mask).target(Place("weight"))
    contribution(factors, target)

    assert taken == [cheapest]


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_a_padding_that_differs_between_the_sides_is_kept():
    run = layer_pass(lambda: nn.Conv2d(2, 3, (2, 4), padding="same"), (2, 4, 5))

    found = convolution.ConvolutionRule().gradients(*run.arguments, run.candidates)

    assert_close(found["weight"], run.gradients["weight"])


@pytest.mark.parametrize("setting", [{"max_norm": 1.0}, {"scale_grad_by_freq": True}])
def test_embeddings_whose_gradient_is_not_a_sum_are_refused(setting):
    layer = nn.Embedding(4, 2, **setting)

    with pytest.raises(RuntimeError, match="max_norm or scale_grad_by_freq have no rule"):
        embedding.EmbeddingRule().gradients(layer, torch.zeros(2, 3).long(), torch.ones(2, 3, 2), 2)


def test_a_batch_norm_that_mixes_examples_is_refused():
    layer = nn.BatchNorm1d(2, track_running_stats=False)

    with pytest.raises(RuntimeError, match="without running statistics mixes examples"):
        batch_norm.BatchNormRule().gradients(layer, torch.ones(2, 2), torch.ones(2, 2), 2)


class Attentive(nn.Module):
    """Reads a 4 x 6 image as four tokens and attends among them."""

    def __init__(self, mask=None, **settings):
        super().__init__()
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True, **settings)
        self.readout = nn.Linear(24, 4)
        self.mask = mask

    def forward(self, images):
        tokens = images[:, 0]
        seen, _ = self.attention(
            tokens.flip(2), tokens.tanh(), tokens, need_weights=False, attn_mask=self.mask
        )
        return self.readout(seen.flatten(1))


HIDDEN = torch.triu(torch.ones(4, 4, dtype=torch.bool), diagonal=1)
ATTENTION = {
    "packed": {},
    "no bias": {"bias": False},
    "hidden by a truth value": {"mask": HIDDEN},
    "hidden by a summand": {"mask": torch.randn(4, 4, generator=seeded(1), dtype=torch.float64)},
}


@pytest.fixture(params=ATTENTION)
def attentive(request):
    return build(lambda: Attentive(**ATTENTION[request.param]), 1).double()


def test_attention_in_parts_computes_what_it_does_whole(attentive):
    tokens = torch.randn(3, 3, 4, 6, generator=seeded(2), dtype=torch.float64)

    found, _ = attention.DecomposedAttention(attentive.attention)(*tokens, attn_mask=attentive.mask)

    expected, _ = attentive.attention(*tokens, attn_mask=attentive.mask)
    assert_close(found, expected)


def test_causal_attention_in_parts_sees_no_later_token(attentive):
    tokens = torch.randn(3, 3, 4, 6, generator=seeded(2), dtype=torch.float64)

    found, _ = attention.DecomposedAttention(attentive.attention)(*tokens, is_causal=True)

    expected, _ = attentive.attention(*tokens, attn_mask=HIDDEN)
    assert_close(found, expected)


@pytest.mark.parametrize("candidates", [1, 2, 4])
def test_gradients_of_attention_are_those_of_autograd(attentive, candidates):
    images = torch.rand(4, 1, 4, 6, generator=seeded(3), dtype=torch.float64)
    labels = torch.tensor([0, 3, 1, 1])

    found = Kernels(attentive, (1, 4, 6)).updates(images, labels, candidates)

    expected = oracle.updates(attentive, images, labels, candidates)
    for name, tensor in expected.tensors.items():
        assert_close(found.tensors[name], tensor)


@pytest.mark.parametrize(
    "hidden",
    [{"key_padding_mask": torch.zeros(3, 4).bool()}, {"attn_mask": HIDDEN.expand(6, 4, 4)}],
)
def test_a_mask_per_example_is_refused(hidden):
    parts = attention.DecomposedAttention(nn.MultiheadAttention(6, 2, batch_first=True))

    with pytest.raises(RuntimeError, match="a mask per example has no rule"):
        parts(*torch.zeros(3, 3, 4, 6), **hidden)


@pytest.mark.parametrize(
    ("settings", "stands"),
    [
        ({}, True),
        ({"bias": False}, True),
        ({"batch_first": False}, False),
        ({"kdim": 3}, False),
        ({"add_bias_kv": True}, False),
        ({"add_zero_attn": True}, False),
    ],
)
def test_only_attention_of_this_form_is_taken_apart(settings, stands):
    original = nn.MultiheadAttention(6, 2, **{"batch_first": True, **settings})

    assert (attention.decomposed(original, None) is not None) == stands
