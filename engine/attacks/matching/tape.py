"""Layer inputs and output gradients of one batched pass, as the kernels need them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

# Called during the backward pass: layer, its input, the gradient of its output.
OnGradient = Callable[[nn.Module, Tensor, Tensor], None]


class Tape:
    """Reports, at chosen layers of a model, inputs and output gradients.

    Args:
        model: A model none of whose parameters asks for a gradient, so that a backward pass
            computes gradients of activations alone; see ``simplified.py``.
        layers: Whether a layer is reported.
    """

    def __init__(self, model: nn.Module, layers: Callable[[nn.Module], bool]) -> None:
        self._model = model
        self._on_gradient: OnGradient | None = None
        self._differentiable = False
        self._anchors: dict[torch.device, Tensor] = {}
        for module in model.modules():
            if layers(module):
                module.register_forward_hook(self._tap)

    def run(self, inputs: Tensor, loss: Callable[[Tensor], Tensor], report: OnGradient) -> None:
        """Runs the model forwards and ``loss`` of its output backwards; ``report`` hears of it.

        Of inputs that require a gradient, what is reported keeps how it came from them.

        Raises:
            RuntimeError: If a later layer changed a reported input in place, or a reported layer
                has several inputs or outputs.
        """
        with torch.enable_grad(), _attention_by_layers():
            self._on_gradient, self._differentiable = report, inputs.requires_grad
            try:
                value = loss(self._model(inputs))
            finally:
                self._on_gradient = None
            if inputs.requires_grad:
                # On the way to the anchors it passes all taps.
                anchors = list(self._anchors.values())
                torch.autograd.grad(value, anchors, create_graph=True, allow_unused=True)
            else:
                value.backward()

    def _tap(self, layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        if self._on_gradient is None:
            return None
        if len(inputs) != 1 or not isinstance(output, Tensor):
            raise RuntimeError(f"{type(layer).__name__} has several inputs or outputs")
        source, report, keep = inputs[0], self._on_gradient, self._differentiable
        version = source._version

        def on_gradient(gradient: Tensor) -> None:
            if source._version != version:
                raise RuntimeError(f"an input of {type(layer).__name__} is changed in place")
            report(layer, source if keep else source.detach(), gradient)

        if output.device not in self._anchors:
            self._anchors[output.device] = torch.zeros((), device=output.device).requires_grad_()
        tap = _DifferentiableTap if keep else _Tap
        return tap.apply(output, self._anchors[output.device], on_gradient)


@contextmanager
def _attention_by_layers() -> Iterator[None]:
    """Keeps attention from its fast path in evaluation mode, which calls no hooks."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


class _Tap(torch.autograd.Function):
    """The identity, which reports the gradient that flows back through it.

    Marked as changing its input in place, though it does not: so later in-place layers may
    overwrite the output, and a gradient arrives even where no earlier layer needs one.
    """

    @staticmethod
    def forward(ctx: Any, output: Tensor, anchor: Tensor, report: Callable[[Tensor], None]) -> Any:
        del anchor
        ctx.report = report
        ctx.mark_dirty(output)
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        ctx.report(gradient)
        return gradient, None, None


class _DifferentiableTap(_Tap):
    """The same by a copy, since an output marked so has no second derivatives."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, anchor: Tensor, report: Callable[[Tensor], None]) -> Any:
        del anchor
        ctx.report = report
        return output.clone()
