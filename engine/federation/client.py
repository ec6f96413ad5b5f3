"""The client protocol: private data in, client update out.

The attacker simulates candidates through this same function, so both sides of an audit
agree on what an update is.
"""

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from engine import validate
from engine.errors import UnsupportedModelError
from engine.federation.update import Update


def compute_update(
    model: nn.Module, images: Tensor, labels: Tensor, *, chunk_size: int | None = None
) -> Update:
    """Returns the FedSGD updates of ``C`` clients that hold one image each.

    An update is the gradient of the cross-entropy on that one image (batch 1) with respect to
    every parameter that requires one, the model being in evaluation mode, as in
    `Li et al. (2022) <https://arxiv.org/abs/2203.15696>`_.

    Args:
        model: Target model in evaluation mode: images ``(C, ch, H, W)`` to logits ``(C, K)``.
        images: Private or candidate images, ``(C, ch, H, W)`` in [0, 1].
        labels: Class indices, ``(C,)``.
        chunk_size: Clients whose gradients are computed at once; all of them if None. Changes
            speed and memory, not results beyond float rounding.

    Raises:
        UnsupportedModelError: If the model is in training mode or has nothing to train.
    """
    validate.shape(("C", "ch", "H", "W"), images=images)
    validate.shape(("C",), labels=labels)
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

    def loss(parameters: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        logits = functional_call(model, parameters, (image[None],))
        return nn.functional.cross_entropy(logits, label[None])

    per_client = vmap(grad(loss), in_dims=(None, 0, 0), chunk_size=chunk_size)
    with torch.no_grad():
        return Update(per_client(trainable, images, labels))
