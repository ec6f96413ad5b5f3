"""What every matching rule promises, against one ordinary backward pass a candidate.

Subclass, name the rule, give a fixture ``case`` (a layer's factory and the shape of one example's
input), and the tests run.
"""

from typing import ClassVar

import pytest
import torch

from engine.attacks.matching import Observation, Place, moments, products
from engine.attacks.matching.contributions import Doubt, Sums, collect
from engine.attacks.matching.rules import RULES, AnyLayerRule, Rule, convolution
from engine.federation import Update
from tests.attacks.matching import oracle
from tests.attacks.matching.oracle import MASKS, assert_close, random_mask
from tests.conftest import seeded


def observe(gradients, mask):
    """Returns an observation of random values, nowhere zero, with a kind of mask a tensor."""
    values, masks = {}, {}
    for name, tensor in gradients.items():
        values[name] = torch.randn(1, *tensor.shape[1:], generator=seeded(5), dtype=torch.float64)
        masks[name] = random_mask(mask, tensor.shape[1:])
    known = {name: tensor for name, tensor in masks.items() if tensor is not None}
    return Observation(Update(values), known)


def assert_contributes(contribution, gradients, observation, name):
    """Asserts that a contribution is that of explicit gradients, trusted or computed again."""
    values, mask = observation.update.tensors[name][0], observation.masks.get(name)
    squared, gap = oracle.moments(gradients[name], values, mask)
    for found in (contribution, doubted(contribution)):
        sums, gaps = collect([(0, found)], 1)
        assert_close(sums[:, 0], squared)
        assert_close(gaps[:, 0], gap)


def doubted(contribution):
    """Returns a contribution whose digits are doubted everywhere, if they can be."""
    if not isinstance(contribution, Sums) or contribution.doubt is None:
        return contribution
    doubt = contribution.doubt
    wrong = torch.full_like(contribution.gap, -1.0)
    return Sums(wrong, wrong, Doubt(doubt.subtracted + 1e30, doubt.explicit, doubt.step))


class RuleContract:
    rule: ClassVar[type[Rule]] = AnyLayerRule
    draw: ClassVar = None  # Makes inputs of random numbers, for layers that want others.

    @pytest.fixture(params=[1, 4], ids=["one image", "four images"])
    def run(self, request, case):
        return oracle.layer_pass(*case, images=request.param, draw=type(self).draw)

    def contributions(self, run, targets):
        return self.rule().contributions(*run.arguments, run.candidates, targets)

    def test_the_layer_has_this_rule(self, run):
        assert type(RULES.get(type(run.layer), AnyLayerRule())) is self.rule

    def test_gradients_are_those_of_autograd(self, run):
        found = self.rule().gradients(*run.arguments, run.candidates)

        assert run.gradients
        for name, gradient in run.gradients.items():
            assert_close(found[name], gradient)

    @pytest.mark.parametrize("mask", MASKS)
    def test_contributions_are_those_of_the_gradients(self, run, mask):
        observation = observe(run.gradients, mask)
        targets = {name: observation.target(Place(name)) for name in run.gradients}

        found = self.contributions(run, targets)

        assert list(found) == list(run.gradients)
        for name, contribution in found.items():
            assert_contributes(contribution, run.gradients, observation, name)

    def test_a_parameter_alone_contributes_what_it_does_with_the_others(self, run):
        observation = observe(run.gradients, "no mask")

        for name in run.gradients:
            found = self.contributions(run, {name: observation.target(Place(name))})

            assert list(found) == [name]
            assert_contributes(found[name], run.gradients, observation, name)

    @pytest.mark.parametrize("mask", ["no mask", "sparse"])
    def test_arguments_are_left_alone(self, run, mask):
        observation = observe(run.gradients, mask)
        targets = {name: observation.target(Place(name)) for name in run.gradients}
        arguments = [
            *(run.inputs, run.deltas, *run.layer.state_dict().values()),
            *(*observation.update.tensors.values(), *observation.masks.values()),
        ]
        before = [tensor.clone() for tensor in arguments]

        self.contributions(run, targets)
        self.rule().gradients(*run.arguments, run.candidates)

        assert all(torch.equal(*pair) for pair in zip(arguments, before, strict=True))
        assert not any(p.grad is not None for p in run.layer.parameters())


class ProductRuleContract(RuleContract):
    """For gradients that are sums of outer products: every way there is to their moments."""

    @pytest.fixture
    def factors(self, run):
        return self.rule().factors(*run.arguments, run.candidates)

    @pytest.mark.parametrize("together", [1, 2, 3])
    @pytest.mark.parametrize("mask", ["no mask", "sparse"])
    def test_the_explicit_way_agrees_however_many_candidates_it_takes_at_once(
        self, run, factors, mask, together, monkeypatch
    ):
        observation = observe(run.gradients, mask)
        entries = run.gradients["weight"][0].numel()
        monkeypatch.setattr(products, "CPU_ENTRIES", together * entries)

        found = products._explicit(factors, observation.target(Place("weight")))

        assert_contributes(found, run.gradients, observation, "weight")

    def test_the_way_over_gram_matrices_agrees(self, run, factors):
        observation = observe(run.gradients, "no mask")
        target = observation.target(Place("weight"))

        squared, inner = products.gram_norms(factors), factors.inner(target.values)

        gradients = run.gradients["weight"]
        assert_close(squared, gradients.square().flatten(1).sum(1))
        assert_close(inner, (gradients * target.values).flatten(1).sum(1))


class SingleGroupContract(ProductRuleContract):
    """Where all inputs meet all outputs, there is a third way."""

    @pytest.mark.parametrize("mask", MASKS[1:])
    def test_the_way_over_masked_pairs_agrees(self, run, factors, mask):
        observation = observe(run.gradients, mask)
        values = observation.update.tensors["weight"][0]
        target = moments.Target(values, observation.masks["weight"].expand_as(values))

        squared = products.masked_norms(factors, factors.by_inputs(target).mask)
        inner = factors.inner(target.masked_values)

        kept = run.gradients["weight"] * target.mask
        assert_close(squared, kept.square().flatten(1).sum(1))
        assert_close(inner, (kept * values).flatten(1).sum(1))


WAYS = {
    "by patches": {"CACHED_PATCHES": 2**30, "SHORTEST_RUN": 0},
    "by torch, all candidates at once": {"SHORTEST_RUN": 2**30},
    "by torch, one candidate after the other": {"SHORTEST_RUN": 2**30, "LARGE_WEIGHT": 0},
}


class ConvolutionContract:
    """A convolution's gradients come in several ways; which one is a question of speed."""

    @pytest.mark.parametrize("by_patches", [True, False])
    def test_inputs_have_one_gram_matrix_however_it_is_computed(self, run, factors, by_patches):
        factors._gram_by_patches = by_patches

        squared = products.gram_norms(factors)

        assert_close(squared, run.gradients["weight"].square().flatten(1).sum(1))

    @pytest.fixture(params=WAYS)
    def forced(self, request, monkeypatch):
        for name, value in WAYS[request.param].items():
            monkeypatch.setattr(convolution, name, value)

    def test_gradients_are_those_of_autograd_in_every_way(self, run, forced):
        found = self.rule().gradients(*run.arguments, run.candidates)

        assert_close(found["weight"], run.gradients["weight"])

    @pytest.mark.parametrize("mask", ["no mask", "sparse"])
    def test_explicit_contributions_agree_in_every_way(self, run, factors, mask, forced):
        observation = observe(run.gradients, mask)

        found = products._explicit(factors, observation.target(Place("weight")))

        assert_contributes(found, run.gradients, observation, "weight")
