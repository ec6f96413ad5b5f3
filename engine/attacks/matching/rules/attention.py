"""Multi-head attention: four linear layers around a product of their outputs."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from engine.attacks.matching.rules.stand_ins import Ranges, StandIn, stand_in_for


class DecomposedAttention(nn.Module):
    """Computes what :class:`torch.nn.MultiheadAttention` does, through linear layers it owns.

    Their weights are views of the original's, so that the linear rule applies to each:
    ``in_proj_weight`` is three of them, one below the other.

    Args:
        original: Multi-head attention in evaluation mode, with queries, keys and values of one
            width, no extra keys (``add_bias_kv``, ``add_zero_attn``) and the batch first.
    """

    batch_first = True  # Read by torch's own transformer layers.

    def __init__(self, original: nn.MultiheadAttention) -> None:
        super().__init__()
        self.heads = original.num_heads
        thirds = [slice(i * original.embed_dim, (i + 1) * original.embed_dim) for i in range(3)]
        self.query, self.key, self.value = (
            _linear(
                original.in_proj_weight[rows],
                None if original.in_proj_bias is None else original.in_proj_bias[rows],
            )
            for rows in thirds
        )
        self.out = _linear(original.out_proj.weight, original.out_proj.bias)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Any]:
        """Returns the attended values ``(N, L, width)``, and None for the weights."""
        del need_weights, average_attn_weights
        if key_padding_mask is not None or (attn_mask is not None and attn_mask.ndim != 2):
            raise RuntimeError("attention with padding or a mask per example has no rule")
        if attn_mask is not None and attn_mask.dtype is not query.dtype:
            attn_mask = ~attn_mask  # torch marks what is hidden here, what is seen below.
        q, k, v = (
            layer(tokens).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for layer, tokens in ((self.query, query), (self.key, key), (self.value, value))
        )
        causal = is_causal and attn_mask is None
        with sdpa_kernel(SDPBackend.MATH):  # The fused ones cannot be differentiated by vmap.
            seen = functional.scaled_dot_product_attention(
                q, k, v, attn_mask=attn_mask, is_causal=causal
            )
        return self.out(seen.transpose(1, 2).flatten(2)), None


@stand_in_for(nn.MultiheadAttention)
def decomposed(module: nn.Module, shape: torch.Size | None) -> StandIn | None:
    """Returns attention taken apart, if :class:`DecomposedAttention` can stand for it."""
    del shape
    assert isinstance(module, nn.MultiheadAttention)
    if (
        not module.batch_first
        or module.in_proj_weight is None
        or module.bias_k is not None
        or module.add_zero_attn
    ):
        return None
    width, biased = module.embed_dim, module.in_proj_bias is not None
    parts: dict[str, tuple[str, Ranges]] = {"out.weight": ("out_proj.weight", ())}
    if module.out_proj.bias is not None:
        parts["out.bias"] = ("out_proj.bias", ())
    for place, name in enumerate(("query", "key", "value")):
        rows = ((place * width, (place + 1) * width),)
        parts[f"{name}.weight"] = ("in_proj_weight", rows)
        if biased:
            parts[f"{name}.bias"] = ("in_proj_bias", rows)
    return StandIn(DecomposedAttention(module), parts)


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = nn.Parameter(weight.detach(), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return layer
