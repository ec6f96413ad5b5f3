"""Candidates' updates, or their moments alone, from one batched pass through the target model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from engine.attacks.matching.moments import (
    Contribution,
    Moments,
    Observation,
    from_gradients,
)
from engine.attacks.matching.rules import (
    RULES,
    AnyLayerRule,
    DecomposedAttention,
    Rule,
    decomposes,
)
from engine.attacks.matching.tape import Tape, frozen_copy, replaced
from engine.errors import UnsupportedModelError
from engine.federation.client import batch_loss, compute_update
from engine.federation.update import Update

# Largest difference from autograd, relative to a tensor's largest entry, in the probe.
PROBE_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Place:
    """Where a layer's parameter lies in an update: a tensor's name, and which of its rows."""

    name: str
    start: int
    stop: int

    @property
    def rows(self) -> slice:
        """The rows as a slice."""
        return slice(self.start, self.stop)


class Kernels:
    """Computes candidates' updates and moments layer by layer, by the rules of ``rules``.

    Attributes:
        names: Names of the update's tensors, in model order.
        general_layers: Layers without a rule of their own, which cost one gradient a candidate.

    Args:
        model: Target model in evaluation mode. Its parameters are shared, not copied.
        image_shape: ``(ch, H, W)`` of its images.

    Raises:
        UnsupportedModelError: If the rules do not reproduce autograd's gradients for this model;
            the message says why.
    """

    def __init__(self, model: nn.Module, image_shape: tuple[int, int, int]) -> None:
        trainable = {id(p): name for name, p in model.named_parameters() if p.requires_grad}
        self.names = tuple(trainable.values())
        self._shapes = {name: p.shape for name, p in model.named_parameters()}
        self._places: dict[int, Place] = {}
        # Kept alive: places are known by the identity of parameters.
        self._decomposed: dict[nn.Module, nn.Module] = {}
        self._originals = {
            name: trainable[id(p)] for name, p in model.named_parameters() if id(p) in trainable
        }
        copied = frozen_copy(model)
        self._locate(copied)
        copied = replaced(copied, self._replace)
        self._tape = Tape(copied, layers=lambda layer: bool(self.own(layer)))
        self._paths = {module: name for name, module in copied.named_modules()}
        self.uses: Counter[Place] = Counter()
        self.general_layers: tuple[str, ...] = ()
        self._probe(model, image_shape)

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
                some.add(layer, inputs[some.rows], deltas[some.rows])

        self._run(images, labels, examples, report)
        return [some.moments() for some in passes]

    def updates(self, images: Tensor, labels: Tensor, candidates: int) -> Update:
        """Returns the updates of ``C`` candidates of ``B`` images each.

        Args:
            images: Every candidate's images next to each other, ``(C * B, ch, H, W)``.
            labels: Their classes, ``(C * B,)``.
            candidates: ``C``.
        """
        found: dict[str, Tensor] = {}
        examples = len(images) // candidates

        def report(layer: nn.Module, inputs: Tensor, deltas: Tensor) -> None:
            explicit = _rule(layer).gradients(layer, inputs, deltas, candidates)
            self.accumulate(found, explicit, self.own(layer))

        self._run(images, labels, examples, report)
        return Update({name: found[name] for name in self.names})

    def _run(
        self,
        images: Tensor,
        labels: Tensor,
        examples: int,
        report: Callable[[nn.Module, Tensor, Tensor], None],
    ) -> None:
        self._tape.run(images, lambda logits: batch_loss(logits, labels) / examples, report)

    def accumulate(
        self,
        sums: dict[str, Tensor],
        explicit: Mapping[str, Tensor],
        places: Mapping[str, Place],
    ) -> None:
        """Adds a layer's gradients to those of the update's tensors they belong to."""
        for key, place in places.items():
            shape = self._shapes[place.name]
            if place.name not in sums and explicit[key].shape[1:] == shape:
                sums[place.name] = explicit[key]
                continue
            total = explicit[key].new_zeros(len(explicit[key]), *shape)
            (total[:, place.rows] if shape else total).copy_(explicit[key])
            sums[place.name] = total + sums[place.name] if place.name in sums else total

    def own(self, layer: nn.Module) -> dict[str, Place]:
        """Returns where the layer's own trainable parameters lie in an update."""
        return {
            key: self._places[id(p)]
            for key, p in layer.named_parameters(recurse=False)
            if id(p) in self._places
        }

    def _locate(self, copied: nn.Module) -> None:
        """Notes the copy's parameters; attention's are noted again when it is replaced."""
        for name, parameter in copied.named_parameters():
            if name in self._originals:
                self._places[id(parameter)] = Place(
                    name, 0, len(parameter) if parameter.ndim else 1
                )

    def _replace(self, module: nn.Module) -> nn.Module:
        if not decomposes(module):
            return module
        assert isinstance(module, nn.MultiheadAttention)
        if module in self._decomposed:
            return self._decomposed[module]
        originals = dict(module.named_parameters())
        decomposed = DecomposedAttention(module)
        parameters = dict(decomposed.named_parameters())
        for key, (source, rows) in DecomposedAttention.parts(module).items():
            place = self._places.get(id(originals[source]))
            if place is not None:
                start, stop, _ = rows.indices(place.stop)
                self._places[id(parameters[key])] = Place(place.name, start, stop)
        for parameter in originals.values():
            self._places.pop(id(parameter), None)
        self._decomposed[module] = decomposed
        return decomposed

    def _probe(self, model: nn.Module, image_shape: tuple[int, int, int]) -> None:
        """Counts the uses of every parameter and compares two updates with autograd's."""
        reference = next(model.parameters())
        rng = torch.Generator().manual_seed(0)
        images = torch.rand(2, *image_shape, generator=rng).to(reference)
        labels = torch.tensor([0, 0], device=images.device)
        general = []

        def count(layer: nn.Module, inputs: Tensor, deltas: Tensor) -> None:
            del inputs, deltas
            self.uses.update(self.own(layer).values())
            if isinstance(_rule(layer), AnyLayerRule):
                general.append(f"{self._paths[layer]} ({type(layer).__name__})")

        self._run(images, labels, 1, count)
        unused = set(self._places.values()) - set(self.uses)
        if unused:
            names = ", ".join(sorted({place.name for place in unused}))
            raise UnsupportedModelError(f"{names} is used outside a layer of its own")
        self.general_layers = tuple(dict.fromkeys(general))
        found = self.updates(images, labels, 2)
        for place in range(2):
            true = compute_update(model, images[place, None], labels[place, None])
            for name, tensor in true.tensors.items():
                away = (found.tensors[name][place] - tensor[0]).abs().max()
                if not away <= PROBE_TOLERANCE * tensor.abs().max() + 1e-12:
                    raise UnsupportedModelError(
                        f"the kernels' gradient of {name} is not autograd's"
                    )


class _Pass:
    """Gathers the moments of the candidates compared with one observation."""

    def __init__(
        self, kernels: Kernels, observation: Observation, candidates: int, rows: slice
    ) -> None:
        self.rows = rows
        self._kernels, self._observation, self._candidates = kernels, observation, candidates
        self._parts: dict[str, Contribution] = {}
        self._slack = torch.zeros(candidates, dtype=torch.float64, device=observation.device)
        self._sums: dict[str, Tensor] = {}

    def add(self, layer: nn.Module, inputs: Tensor, deltas: Tensor) -> None:
        rule, places = _rule(layer), self._kernels.own(layer)
        once = {key: place for key, place in places.items() if self._kernels.uses[place] == 1}
        again = {key: place for key, place in places.items() if key not in once}
        if once:
            targets = {
                key: self._observation.target(place.name, place.start, place.stop)
                for key, place in once.items()
            }
            own = rule.contributions(layer, inputs, deltas, targets, self._slack)
            for key, place in once.items():
                self._slack = self._slack + own[key].slack
                before = self._parts.get(place.name)
                self._parts[place.name] = own[key] if before is None else before + own[key]
        if again:
            explicit = rule.gradients(layer, inputs, deltas, self._candidates)
            self._kernels.accumulate(self._sums, explicit, again)

    def moments(self) -> Moments:
        shared = {
            name: from_gradients(explicit, self._observation.target(name))
            for name, explicit in self._sums.items()
        }
        return self._observation.collect({**self._parts, **shared})


def _rule(layer: nn.Module) -> Rule:
    return RULES.get(type(layer), GENERAL_RULE)


GENERAL_RULE = AnyLayerRule()
