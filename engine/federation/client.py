"""The client protocol: private data in, client update out.

The attacker simulates candidates through this same function, so both sides of an audit
agree on what an update is.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Final

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from engine import validate
from engine.errors import InputError, UnsupportedModelError
from engine.federation.update import Update
from engine.precision import tensor_float

# Weights, images and labels to the gradient of the loss, by name.
Gradient = Callable[[dict[str, Tensor], Tensor, Tensor], dict[str, Tensor]]


@dataclass(frozen=True)
class LocalTraining:
    """What a client does with its images before it shares an update.

    Attributes:
        steps: Gradient steps on all of its images together. One is FedSGD: the update is the
            gradient. More are FedAvg without momentum: the update is the sum of the gradients
            along the way, which is the change of the weights divided by ``-learning_rate``.
        learning_rate: Step size; without effect for one step.
    """

    steps: int = 1
    learning_rate: float = 0.01

    def __post_init__(self) -> None:
        validate.count(steps=self.steps)
        validate.positive(learning_rate=self.learning_rate)


FEDSGD: Final = LocalTraining()


@tensor_float(False)
def compute_update(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    images_per_client: int = 1,
    training: LocalTraining = FEDSGD,
    chunk_size: int | None = None,
    differentiable: bool = False,
) -> Update:
    """Returns the updates of ``C`` clients that hold ``B`` images each.

    A gradient is that of the mean cross-entropy over a client's images with respect to every
    parameter that requires one, the model being in evaluation mode, as in
    `Li et al. (2022) <https://arxiv.org/abs/2203.15696>`_.

    Args:
        model: Target model in evaluation mode: images ``(N, ch, H, W)`` to logits ``(N, K)``.
        images: Private or candidate images, every client's next to each other,
            ``(C * B, ch, H, W)`` in [0, 1].
        labels: Class indices, ``(C * B,)``; or probabilities of every class, ``(C * B, K)``.
        images_per_client: ``B``.
        training: How a client comes from its images to its update.
        chunk_size: Clients whose updates are computed at once; all of them if None. Changes
            speed and memory, not results beyond float rounding.
        differentiable: Whether updates keep how they came from the images, for white-box attacks.

    Raises:
        InputError: If the images do not divide into clients.
        UnsupportedModelError: If the model is in training mode or has nothing to train.
    """
    validate.shape(("C", "ch", "H", "W"), images=images)
    validate.shape(("C",) if labels.ndim != 2 else ("C", "K"), labels=labels)
    trainable = trainable_parameters(model)
    places = _places(model, trainable)
    if len(images) % images_per_client:
        raise InputError(
            f"Expected a multiple of images_per_client={images_per_client} images, "
            f"got {len(images)}."
        )

    def loss(parameters: dict[str, Tensor], some: Tensor, classes: Tensor) -> Tensor:
        everywhere = {name: parameters[known] for name, known in places.items()}
        logits = functional_call(model, everywhere, (some,), tie_weights=False)
        return batch_loss(logits, classes) / len(classes)

    def client(some: Tensor, classes: Tensor, gradient: Gradient) -> dict[str, Tensor]:
        weights, total = trainable, None
        for _ in range(training.steps):
            step = gradient(weights, some, classes)
            weights = {k: w - training.learning_rate * step[k] for k, w in weights.items()}
            total = step if total is None else {k: total[k] + step[k] for k in step}
        assert total is not None
        return total

    with torch.set_grad_enabled(differentiable):
        if (
            len(images) == images_per_client and not differentiable
        ):  # Works for models that vmap does not.
            update = client(images, labels, _by_autograd(loss))
            return Update({name: tensor[None] for name, tensor in update.items()})
        return Update(
            vmap(partial(client, gradient=grad(loss)), chunk_size=chunk_size)(
                images.unflatten(0, (-1, images_per_client)),
                labels.unflatten(0, (-1, images_per_client)),
            )
        )


def _by_autograd(loss: Callable[[dict[str, Tensor], Tensor, Tensor], Tensor]) -> Gradient:
    """Returns what ``torch.func.grad`` would; its first use costs a process a second of imports."""

    @torch.enable_grad()
    def gradient(weights: dict[str, Tensor], some: Tensor, classes: Tensor) -> dict[str, Tensor]:
        leaves = {name: tensor.detach().requires_grad_() for name, tensor in weights.items()}
        value = loss(leaves, some, classes)
        found = torch.autograd.grad(value, list(leaves.values()), materialize_grads=True)
        return dict(zip(leaves, found, strict=True))

    return gradient


def _places(model: nn.Module, trainable: Collection[str]) -> dict[str, str]:
    """Returns where parameters are in a model, to the names they have in an update.

    A parameter that several layers share is in all of them. A layer that has several names counts
    once: torch's own ``tie_weights`` takes it for several, and leaves it with foreign weights.
    """
    names = {id(p): name for name, p in model.named_parameters() if name in trainable}
    return {
        f"{path}.{key}" if path else key: names[id(p)]
        for path, module in model.named_modules()
        for key, p in module.named_parameters(recurse=False, remove_duplicate=False)
        if id(p) in names
    }


def batch_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Returns the sum of the cross-entropies of logits ``(N, K)``, which clients minimise.

    Labels are class indices ``(N,)`` or probabilities ``(N, K)``.
    """
    return nn.functional.cross_entropy(logits, labels, reduction="sum")


def trainable_parameters(model: nn.Module) -> dict[str, Tensor]:
    """Returns the parameters an update has a tensor for, by name.

    Raises:
        UnsupportedModelError: If there is none, or the model is in training mode.
    """
    if model.training:
        raise UnsupportedModelError(
            "Expected a target model in evaluation mode, got one in training mode. "
            "Call model.eval() first."
        )
    trainable = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    if not trainable:
        raise UnsupportedModelError(
            "Expected a target model with trainable parameters, got none that requires a gradient."
        )
    return trainable
