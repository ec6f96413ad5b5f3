"""The slow and obvious way: one ordinary backward pass a candidate. Uses no kernel of ours."""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from engine.federation import Update
from tests.conftest import build, seeded

CANDIDATES = 3


def gradients_of(parameters, loss):
    """Returns a loss's gradients; zeros where it does not depend on a parameter."""
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    pairs = zip(parameters, found, strict=True)
    return [torch.zeros_like(p) if gradient is None else gradient for p, gradient in pairs]


def updates(model, images, labels, candidates):
    """Returns the updates of candidates, each the gradient of its images' mean cross-entropy."""
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    rows = []
    for some, classes in zip(images.chunk(candidates), labels.chunk(candidates), strict=True):
        log_probabilities = model(some).log_softmax(1)
        loss = -log_probabilities[range(len(some)), classes].mean()
        rows.append(gradients_of(list(named.values()), loss))
    return _stacked(named, rows)


def trained_updates(model, images, labels, candidates, *, steps, learning_rate):
    """Returns, of a training by plain SGD a candidate, the weights' change over -learning_rate."""
    rows = []
    for some, classes in zip(images.chunk(candidates), labels.chunk(candidates), strict=True):
        trained = copy.deepcopy(model)
        optimizer = torch.optim.SGD(trained.parameters(), lr=learning_rate)
        for _ in range(steps):
            optimizer.zero_grad()
            nn.functional.cross_entropy(trained(some), classes).backward()
            optimizer.step()
        pairs = zip(model.parameters(), trained.parameters(), strict=True)
        rows.append([(before - after).detach() / learning_rate for before, after in pairs])
    return _stacked([name for name, _ in model.named_parameters()], rows)


def moments(gradients, values, mask=None):
    """Returns ``||m * g||²`` and ``||m * g - t||²`` of rows ``g`` for values ``t`` and a mask."""
    kept = gradients if mask is None else gradients * mask
    rows = [(row.square().sum(), (row - values).square().sum()) for row in kept]
    return tuple(torch.stack(column) for column in zip(*rows, strict=True))


def losses(objective, latents):
    """Returns an objective's losses, each latent's from updates of its own."""
    each = []
    for latent in latents:
        images, labels = objective.generate(latent[None]), torch.tensor(objective.labels)
        found = objective.imitate(updates(objective.knowledge.model, images, labels, 1))
        penalty = objective.regulariser_weight * objective.regulariser(latent[None])
        each.append(objective.distance(found, objective.observed) + penalty)
    return torch.cat(each)


def random_mask(kind, shape):
    """Returns factors of 0 and 1 that are broadcastable to ``shape``; None for no mask."""
    if kind == "no mask":
        return None
    if kind == "one factor a row":
        shape = (*shape[:1], *[1] * (len(shape) - 1))
    if kind == "one factor a column":
        shape = shape[-1:]
    share = {"all zeros": 0.0, "sparse": 0.15, "all ones": 1.0}.get(kind, 0.7)
    return (torch.rand(shape, generator=seeded(8)) < share).double()


MASKS = (
    "no mask",
    "all ones",
    "all zeros",
    "dense",
    "sparse",
    "one factor a row",
    "one factor a column",
)


@dataclass(frozen=True)
class LayerPass:
    """A layer with inputs ``(C * B, ...)``, output gradients, and its parameters' gradients."""

    layer: nn.Module
    inputs: Tensor
    deltas: Tensor
    candidates: int
    gradients: dict[str, Tensor]

    @property
    def arguments(self):
        return self.layer, self.inputs, self.deltas


def layer_pass(make: Callable[[], nn.Module], shape: tuple[int, ...], *, images=1, draw=None):
    """Runs a layer in double precision, backwards once a candidate from random slopes."""
    layer = settled(build(make, 1).double())
    examples = CANDIDATES * images
    inputs = torch.randn(examples, *shape, generator=seeded(2), dtype=torch.float64)
    inputs = inputs if draw is None else draw(inputs)
    deltas = torch.randn(layer(inputs).shape, generator=seeded(3), dtype=torch.float64)
    named = dict(layer.named_parameters(recurse=False))
    rows = [
        gradients_of(list(named.values()), (layer(some) * slopes).sum())
        for some, slopes in zip(inputs.chunk(CANDIDATES), deltas.chunk(CANDIDATES), strict=True)
    ]
    return LayerPass(layer, inputs, deltas, CANDIDATES, dict(_stacked(named, rows).tensors))


def settled(module):
    """Gives normalisations statistics and factors other than zeros and ones, in place."""
    rng = seeded(4)
    for layer in module.modules():
        for name, tensor in (*layer.named_parameters(recurse=False), *layer.named_buffers()):
            if "Norm" in type(layer).__name__ and tensor.is_floating_point():
                low = -0.5 if name in ("bias", "running_mean") else 0.5
                tensor.data.copy_(torch.rand(tensor.shape, generator=rng) + low)
    return module


def _stacked(names, rows):
    columns = [torch.stack(column) for column in zip(*rows, strict=True)]
    return Update(dict(zip(names, columns, strict=True)))


def assert_close(found, expected):
    """Asserts equality to 1e-9 of the largest entry, a little of which rounding may cost."""
    scale = expected.abs().max().item()
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11 * scale)
