"""Penalties on candidates' images that do not look like images; lower is more plausible."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

# Candidates' images (C, B, ch, H, W) in [0, 1] and the target model to penalties (C,).
ImagePrior = Callable[[Tensor, nn.Module], Tensor]
# Factor of the first BatchNorm layer in GradInversion, whose statistics are those of the colours.
FIRST_LAYER: Final = 10.0


def total_variation(images: Tensor, model: nn.Module) -> Tensor:
    """Mean absolute difference of neighbouring pixels, along rows plus along columns, ``(C,)``.

    The anisotropic form of `Inverting Gradients <https://arxiv.org/abs/2003.14053>`_ (Geiping et
    al. 2020), whose images have twice this scale.
    """
    del model
    rows = images.diff(dim=-1).abs().flatten(1).mean(1)
    return rows + images.diff(dim=-2).abs().flatten(1).mean(1)


def image_norm(images: Tensor, model: nn.Module) -> Tensor:
    """Half the mean square of pixels taken from -1 (black) to 1 (white), ``(C,)``."""
    del model
    return (2 * images - 1).square().flatten(1).mean(1) / 2


def batch_norm(images: Tensor, model: nn.Module) -> Tensor:
    """Distance of each BatchNorm's input from the statistics that it has stored, ``(C,)``.

    The sum over layers of ``||mean - stored|| + ||variance - stored||``, the first layer's tenfold
    (`GradInversion <https://arxiv.org/abs/2104.07586>`_, Yin et al. 2021): over a candidate's ``B``
    images and all their positions. Zero where none are stored, and for a model that was never
    trained, whose say nothing.
    """
    penalties = images.new_zeros(len(images))
    with _inputs_of_batch_norms(model) as inputs:
        model(images.flatten(0, 1))
    for place, (layer, values) in enumerate(inputs):
        assert layer.running_mean is not None
        assert layer.running_var is not None
        by_channel = values.unflatten(0, images.shape[:2]).transpose(1, 2).flatten(2)
        mean, variance = by_channel.mean(2), by_channel.var(2, correction=0)
        away = (mean - layer.running_mean).norm(dim=1) + (variance - layer.running_var).norm(dim=1)
        penalties = penalties + (FIRST_LAYER if place == 0 else 1.0) * away
    return penalties


@contextmanager
def _inputs_of_batch_norms(model: nn.Module) -> Iterator[list[tuple[_BatchNorm, Tensor]]]:
    """Yields a list that fills with each BatchNorm with statistics, and its input, as it runs."""
    calls: list[tuple[_BatchNorm, Tensor]] = []

    def record(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, _BatchNorm)
        calls.append((layer, inputs[0]))

    handles = [
        layer.register_forward_pre_hook(record)
        for layer in model.modules()
        if isinstance(layer, _BatchNorm) and layer.num_batches_tracked  # None, or of no batch.
    ]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


IMAGE_PRIORS: Final[dict[str, ImagePrior]] = {
    "batch_norm": batch_norm,
    "image_norm": image_norm,
    "total_variation": total_variation,
}
