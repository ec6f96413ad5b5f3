"""Candidates' updates, or their moments alone, from one batched pass through the target model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from engine.attacks.matching.contributions import Contribution, collect, of_gradients
from engine.attacks.matching.moments import Moments, Observation, Place
from engine.attacks.matching.rules import RULES, AnyLayerRule, Rule
from engine.attacks.matching.simplified import simplified
from engine.attacks.matching.tape import Tape
from engine.errors import UnsupportedModelError
from engine.federation.client import batch_loss, compute_update
from engine.federation.update import Update

# Largest difference from autograd, relative to a tensor's largest entry, in the probe.
PROBE_TOLERANCE = 1e-3
# Pairs of images tried: a wrong rule is wrong for all of them, but rounding may move a ReLU of deep
# networks over its edge for one, and with it the whole gradient below.
PROBES = 3


@dataclass(frozen=True)
class Layer:
    """A layer whose parameters the update has, as a pass meets it.

    Attributes:
        rule: How its gradients come from its inputs and output gradients.
        once: Where those of its parameters lie that are used at one place and time, by name.
        again: Where the others lie.
    """

    rule: Rule
    once: Mapping[str, Place]
    again: Mapping[str, Place]

    @property
    def places(self) -> Mapping[str, Place]:
        """Where all of them lie."""
        return {**self.once, **self.again}


class Kernels:
    """Computes candidates' updates and moments layer by layer, by the rules of ``rules``.

    Attributes:
        columns: Names of the update's tensors, in model order, to their places in it.
        general_layers: Layers without a rule of their own, which cost one gradient a candidate.

    Args:
        model: Target model in evaluation mode. Its parameters are shared, not copied.
        image_shape: ``(ch, H, W)`` of its images.

    Raises:
        UnsupportedModelError: If the rules do not reproduce autograd's gradients for this model;
            the message says why.
    """

    def __init__(self, model: nn.Module, image_shape: tuple[int, int, int]) -> None:
        shapes = {name: p.shape for name, p in model.named_parameters() if p.requires_grad}
        self.columns, self._shapes = {name: i for i, name in enumerate(shapes)}, shapes
        images, labels = _probe(model, image_shape, seed=0)
        run, self._places = simplified(model, images)
        self._tape = Tape(run, layers=lambda layer: bool(self._own(layer)))
        paths = {module: name for name, module in run.named_modules()}
        # In the order a pass meets them, one entry each time.
        calls: list[nn.Module] = []
        self._run(images, labels, 1, lambda layer, *_: calls.append(layer))
        uses = Counter(place for layer in calls for place in self._own(layer).values())
        unused = set(self._places.values()) - set(uses)
        if unused:
            names = ", ".join(sorted({place.name for place in unused}))
            raise UnsupportedModelError(f"{names} is used outside a layer of its own")
        self._layers = {layer: self._meet(layer, uses) for layer in calls}
        self.general_layers = tuple(
            f"{paths[layer]} ({type(layer).__name__})"
            for layer, met in self._layers.items()
            if isinstance(met.rule, AnyLayerRule)
        )
        self._parts = self._cut()
        self._check(model, image_shape)

    def moments(
        self, images: Tensor, labels: Tensor, observations: Sequence[tuple[Observation, int]]
    ) -> list[Moments]:
        """Returns the moments of candidates, by the observation they are compared with.

        Args:
            images: Every candidate's images next to each other, ``(C * B, ch, H, W)``.
            labels: Their classes, ``(C * B,)``.
            observations: Observations, each with how many of the ``C`` candidates are compared
                with it; in the candidates' order.
        """
        examples = len(images) // sum(candidates for _, candidates in observations)
        passes = []
        start = 0
        for observation, candidates in observations:
            rows = slice(start, start + candidates * examples)
            passes.append(_Pass(self, observation, candidates, rows))
            start = rows.stop

        def report(layer: nn.Module, inputs: Tensor, deltas: Tensor) -> None:
            for some in passes:
                some.add(self._layers[layer], layer, inputs[some.rows], deltas[some.rows])

        self._run(images, labels, examples, report)
        return [some.moments(self._parts) for some in passes]

    def updates(self, images: Tensor, labels: Tensor, candidates: int) -> Update:
        """Returns the updates of ``C`` candidates of ``B`` images each.

        Args:
            images: Every candidate's images next to each other, ``(C * B, ch, H, W)``.
            labels: Their classes, ``(C * B,)``.
            candidates: ``C``.
        """
        found: dict[str, Tensor] = {}

        def report(layer: nn.Module, inputs: Tensor, deltas: Tensor) -> None:
            met = self._layers[layer]
            explicit = met.rule.gradients(layer, inputs, deltas, candidates)
            self.accumulate(found, explicit, met.places)

        self._run(images, labels, len(images) // candidates, report)
        return Update({name: found[name] for name in self.columns})

    def accumulate(
        self,
        sums: dict[str, Tensor],
        explicit: Mapping[str, Tensor],
        places: Mapping[str, Place],
    ) -> None:
        """Adds a layer's gradients to those of the update's tensors they belong to."""
        for key, place in places.items():
            gradients, shape = explicit[key], self._shapes[place.name]
            if place.name not in sums and gradients.shape[1:] == shape:
                sums[place.name] = gradients
                continue
            total = gradients.new_zeros(len(gradients), *shape)
            total[:, *place.index] = gradients
            sums[place.name] = total + sums[place.name] if place.name in sums else total

    def _run(
        self,
        images: Tensor,
        labels: Tensor,
        examples: int,
        report: Callable[[nn.Module, Tensor, Tensor], None],
    ) -> None:
        self._tape.run(images, lambda logits: batch_loss(logits, labels) / examples, report)

    def _own(self, layer: nn.Module) -> dict[str, Place]:
        """Returns where the layer's own trainable parameters lie in an update."""
        return {
            key: self._places[id(p)]
            for key, p in layer.named_parameters(recurse=False)
            if id(p) in self._places
        }

    def _meet(self, layer: nn.Module, uses: Counter[Place]) -> Layer:
        own = self._own(layer)
        once = {key: place for key, place in own.items() if uses[place] == 1}
        again = {key: place for key, place in own.items() if key not in once}
        return Layer(_rule(layer), once, again)

    def _cut(self) -> tuple[tuple[Place, ...], ...]:
        """Returns the places of those tensors that have entries in none of them."""
        parts: dict[str, dict[Place, int]] = {}
        for layer, met in self._layers.items():
            for key, place in met.places.items():
                parts.setdefault(place.name, {})[place] = layer.get_parameter(key).numel()
        return tuple(
            tuple(places)
            for name, places in parts.items()
            if sum(places.values()) < self._shapes[name].numel()
        )

    def _check(self, model: nn.Module, image_shape: tuple[int, int, int]) -> None:
        """Raises an UnsupportedModelError unless updates of some two images are autograd's."""
        differing = ""
        for seed in range(PROBES):
            differing = self._differing(model, *_probe(model, image_shape, seed=seed))
            if not differing:
                return
        raise UnsupportedModelError(f"the kernels' gradient of {differing} is not autograd's")

    def _differing(self, model: nn.Module, images: Tensor, labels: Tensor) -> str:
        """Returns a parameter for which the update of an image is not autograd's, if there is."""
        found = self.updates(images, labels, 2)
        for place in range(2):
            true = compute_update(model, images[place, None], labels[place, None])
            for name, tensor in true.tensors.items():
                away = (found.tensors[name][place] - tensor[0]).abs().max()
                if not away <= PROBE_TOLERANCE * tensor.abs().max() + 1e-12:
                    return name
        return ""


class _Pass:
    """Gathers what contributes to the moments of the candidates compared with one observation."""

    def __init__(
        self, kernels: Kernels, observation: Observation, candidates: int, rows: slice
    ) -> None:
        self.rows = rows
        self._kernels, self._observation, self._candidates = kernels, observation, candidates
        self._found: list[tuple[int, Contribution]] = []
        self._sums: dict[str, Tensor] = {}
        self._values: dict[str, Tensor] = {}

    def add(self, met: Layer, layer: nn.Module, inputs: Tensor, deltas: Tensor) -> None:
        asked = self._observation.values
        shown = {key: place for key, place in met.once.items() if place.name in asked}
        hidden = {key: place for key, place in met.once.items() if key not in shown}
        if hidden:
            targets = {key: self._observation.target(place) for key, place in hidden.items()}
            self._note(
                met.rule.contributions(layer, inputs, deltas, self._candidates, targets), hidden
            )
        if shown or met.again:
            explicit = met.rule.gradients(layer, inputs, deltas, self._candidates)
            self._kernels.accumulate(self._values, explicit, shown)
            self._kernels.accumulate(self._sums, explicit, met.again)
            self._note(
                {
                    key: of_gradients(explicit[key], self._observation.target(place))
                    for key, place in shown.items()
                },
                shown,
            )

    def _note(self, found: Mapping[str, Contribution], places: Mapping[str, Place]) -> None:
        columns = self._kernels.columns
        self._found += [(columns[places[key].name], one) for key, one in found.items()]

    def moments(self, parts: Sequence[tuple[Place, ...]]) -> Moments:
        """Returns the moments; ``parts`` are the places of tensors they do not cover."""
        columns = self._kernels.columns
        shared = [
            (columns[name], of_gradients(explicit, self._observation.target(Place(name))))
            for name, explicit in self._sums.items()
        ]
        squared, gap = collect([*self._found, *shared], len(columns))
        outside = gap.new_zeros(len(columns))
        for places in parts:
            outside[columns[places[0].name]] += self._observation.outside(places)
        gap = gap + outside
        values = {name: self._value(name) for name in self._observation.values}
        return Moments(squared, gap, self._observation.squared, values=values)

    def _value(self, name: str) -> Tensor:
        parts = [some[name] for some in (self._values, self._sums) if name in some]
        value = parts[0] if len(parts) == 1 else parts[0] + parts[1]
        mask = self._observation.target(Place(name)).mask
        return value if mask is None else value * mask


def _probe(
    model: nn.Module, image_shape: tuple[int, int, int], *, seed: int
) -> tuple[Tensor, Tensor]:
    """Returns two random images and their labels."""
    reference = next(model.parameters())
    rng = torch.Generator().manual_seed(seed)
    images = torch.rand(2, *image_shape, generator=rng).to(reference)
    return images, torch.tensor([0, 0], device=images.device)


def _rule(layer: nn.Module) -> Rule:
    return RULES.get(type(layer), GENERAL_RULE)


GENERAL_RULE = AnyLayerRule()
