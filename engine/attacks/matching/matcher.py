"""How candidates are compared with an observed update on one model: by kernels where they hold."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from engine.attacks.matching.chunks import Chunks, affordable, is_out_of_memory
from engine.attacks.matching.kernels import Kernels
from engine.attacks.matching.moments import Moments, Observation
from engine.errors import UnsupportedModelError
from engine.federation.client import FEDSGD, LocalTraining, compute_update, trainable_parameters
from engine.federation.update import Update
from engine.precision import tensor_float

# Parameters up to which whole updates are differentiated sooner than moments: a pass by layers has
# its cost whatever their sizes.
SMALL_MODEL = 2**18


class Matcher:
    """Simulates candidates' clients, without their updates where no update is needed.

    Attributes:
        images_per_candidate: Private images ``B`` a client holds.
        why_general: Why every candidate's whole update is computed by differentiating the model
            once a candidate; empty where the kernels hold.

    Args:
        model: Target model in evaluation mode.
        image_shape: ``(ch, H, W)`` of its images.
        images_per_candidate: ``B``.
        training: What clients do with their images.

    Raises:
        UnsupportedModelError: If the model is in training mode, has nothing to train, or does
            not accept such images.
    """

    @tensor_float(False)
    def __init__(
        self,
        model: nn.Module,
        image_shape: tuple[int, int, int],
        *,
        images_per_candidate: int = 1,
        training: LocalTraining = FEDSGD,
    ) -> None:
        self._model, self._training = model, training
        self.images_per_candidate = images_per_candidate
        parameters = sum(p.numel() for p in trainable_parameters(model).values())
        self._small = parameters <= SMALL_MODEL
        _check_images(model, image_shape)
        self._kernels, self.why_general = _make_kernels(model, image_shape, training)
        self._vmapped = self._kernels is not None or _vmaps(model, image_shape)
        if not self._vmapped:
            self.why_general += "; one candidate at a time, since torch.func cannot batch it"
        activation_bytes = _activation_bytes(model, image_shape)
        self._chunks = {
            updates: self._chunks_of(parameters if updates else 0, activation_bytes)
            for updates in (False, True)
        }

    def chunks(self, *, updates: bool) -> Chunks:
        """Returns the chunks of all candidates compared with, or without, their whole updates."""
        return self._chunks[updates or self._kernels is None]

    def _chunks_of(self, parameters: int, activation_bytes: int) -> Chunks:
        parameter = next(self._model.parameters())
        # An update, its imitation, and what both are made from.
        each = 4 * parameters * parameter.element_size()
        return Chunks(
            affordable(self.images_per_candidate * activation_bytes + each, parameter.device)
        )

    def prefers_updates(self, images: Tensor) -> bool:
        """Whether candidates' updates are found sooner than moments: to be differentiated, some."""
        return images.requires_grad and self._vmapped and self._small

    @property
    def has_kernels(self) -> bool:
        """Whether moments come without updates."""
        return self._kernels is not None

    @tensor_float(False)
    def moments(
        self, images: Tensor, labels: Tensor, observations: Sequence[tuple[Observation, int]]
    ) -> list[Moments]:
        """Returns the moments of candidates, see :meth:`Kernels.moments`; needs kernels."""
        assert self._kernels is not None
        return self._kernels.moments(images, labels, observations)

    @tensor_float(False)
    def updates(self, images: Tensor, labels: Tensor) -> Update:
        """Returns the updates of ``C`` candidates of images ``(C * B, ch, H, W)``.

        Of images that require a gradient, they keep how they came from them.
        """
        candidates = len(images) // self.images_per_candidate
        if self._kernels is not None and not self.prefers_updates(images):
            return self._kernels.updates(images, labels, candidates)
        if self._vmapped:
            return self._simulate(images, labels)
        each = [
            self._simulate(*some)
            for some in zip(
                images.split(self.images_per_candidate),
                labels.split(self.images_per_candidate),
                strict=True,
            )
        ]
        return Update(
            {name: torch.cat([u.tensors[name] for u in each]) for name in each[0].tensors}
        )

    def _simulate(self, images: Tensor, labels: Tensor) -> Update:
        return compute_update(
            self._model,
            images,
            labels,
            images_per_client=self.images_per_candidate,
            training=self._training,
            differentiable=images.requires_grad,
        )

    def __str__(self) -> str:
        if self._kernels is None:
            return f"one gradient of the whole model a candidate: {self.why_general}"
        general = self._kernels.general_layers
        return "kernels" + (
            f"; one gradient a candidate for {', '.join(general)}, which have no rule"
            if general
            else ""
        )


@functools.lru_cache(maxsize=4)
def make_matcher(
    model: nn.Module,
    image_shape: tuple[int, int, int],
    *,
    images_per_candidate: int = 1,
    training: LocalTraining = FEDSGD,
) -> Matcher:
    """Returns the matcher of a model; made once for all trials of a process."""
    return Matcher(model, image_shape, images_per_candidate=images_per_candidate, training=training)


def _make_kernels(
    model: nn.Module, image_shape: tuple[int, int, int], training: LocalTraining
) -> tuple[Kernels | None, str]:
    if training.steps > 1:
        return None, f"weights differ between candidates after the first of {training.steps} steps"
    try:
        return Kernels(model, image_shape), ""
    except (UnsupportedModelError, RuntimeError, TypeError, AttributeError) as error:
        if is_out_of_memory(error):  # The model is none the worse for it.
            raise
        return None, str(error).rstrip(".")


def _vmaps(model: nn.Module, image_shape: tuple[int, int, int]) -> bool:
    """Tells whether torch.func can differentiate the model for several candidates at once."""
    try:
        compute_update(model, *_example(model, image_shape, 2))
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        return False
    return True


def _check_images(model: nn.Module, image_shape: tuple[int, int, int]) -> None:
    try:
        with torch.no_grad():
            model(_example(model, image_shape, 2)[0])
    except (RuntimeError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        raise UnsupportedModelError(
            f"Expected a target model for images of shape {image_shape}, as the generator makes, "
            f"but it refuses them: {str(error).splitlines()[0]}"
        ) from error


def _activation_bytes(model: nn.Module, image_shape: tuple[int, int, int]) -> int:
    """Returns the bytes of all layers' outputs for one image, twice: values and gradients."""
    total = 0

    def count(layer: nn.Module, inputs: object, output: object) -> None:
        nonlocal total
        del layer, inputs
        if isinstance(output, Tensor):
            total += output.nbytes

    handles = [
        module.register_forward_hook(count)
        for module in model.modules()
        if next(module.children(), None) is None
    ]
    try:
        with torch.no_grad():
            model(_example(model, image_shape, 2)[0])
    finally:
        for handle in handles:
            handle.remove()
    return total  # Of two images.


def _example(
    model: nn.Module, image_shape: tuple[int, int, int], images: int
) -> tuple[Tensor, Tensor]:
    parameter = next(model.parameters())
    labels = torch.zeros(images, dtype=torch.long, device=parameter.device)
    return torch.zeros(images, *image_shape).to(parameter), labels
