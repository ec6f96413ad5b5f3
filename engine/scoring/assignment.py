"""Assignment: which reconstruction of a client's images is of which private image."""

import torch
from torch import Tensor

from engine import validate


def assign(images: Tensor, truths: Tensor) -> Tensor:
    """Returns each client's reconstructions in the order of the private images they are held to be.

    An update does not tell in which order its images were, so that a reconstruction has none. Of
    all orders the one with the least squared error in total is taken.

    Args:
        images: ``N`` reconstructions of one client's ``B`` images, ``(N, B, ch, H, W)``.
        truths: The client's private images, ``(B, ch, H, W)``.

    Returns:
        The same images, ``(N, B, ch, H, W)``: the one at ``[n, b]`` goes with ``truths[b]``.
    """
    validate.shape(("N", "B", "ch", "H", "W"), images=images)
    validate.shape(("B", "ch", "H", "W"), truths=truths)
    if len(truths) == 1:
        return images
    from scipy.optimize import linear_sum_assignment  # Deferred: takes seconds to import.

    errors = torch.cdist(
        images.flatten(2).double(),
        truths.flatten(1).double().expand(len(images), -1, -1),
        compute_mode="donot_use_mm_for_euclid_dist",
    ).square()
    # An image that is not a number is as far from every private one: any place is as good.
    errors = errors.nan_to_num(nan=0.0, posinf=0.0)
    # Of the transposed errors the rows are private images, so that columns come in their order.
    orders = [linear_sum_assignment(each.T)[1] for each in errors.cpu().numpy()]
    return torch.stack([some[order] for some, order in zip(images, orders, strict=True)])
