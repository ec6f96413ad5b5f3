"""Identification: can the private image be told from others of its class by a reconstruction?"""

from collections.abc import Callable

from torch import Tensor

from engine import validate


def truth_rank(
    images: Tensor, truth: Tensor, distractors: Tensor, *, extract: Callable[[Tensor], Tensor]
) -> Tensor:
    """Returns the rank of the true image among itself and the distractors, ``(N,)``.

    Rank 1 means that the reconstruction is closest to the truth; with ``M`` distractors a blind
    guess has rank 1 with chance ``1 / (M + 1)``. Ties count against the attacker.

    Args:
        images: Reconstructions of one private image, ``(N, ch, H, W)``.
        truth: The private image, ``(1, ch, H, W)``.
        distractors: Other images of its class, ``(M, ch, H, W)``.
        extract: Images to the features ``(N, f)`` distances are taken in.
    """
    validate.shape(("N", "ch", "H", "W"), images=images, truth=truth, distractors=distractors)
    features, true_features = extract(images), extract(truth)
    own = (features - true_features).norm(dim=1)
    others = (features[:, None] - extract(distractors)[None]).norm(dim=2)
    # Not "others <= own": a reconstruction that is not a number is to be close to nothing.
    return 1 + (~(others > own[:, None])).sum(1)


def pixels(images: Tensor) -> Tensor:
    """Returns the images' pixels as features, ``(N, f)``."""
    return images.flatten(1)
