"""Rules by layer type, one file each; importing this registers them."""

from engine.attacks.matching.rules import (
    batch_norm,
    convolution,
    embedding,
    group_norm,
    layer_norm,
    linear,
)
from engine.attacks.matching.rules.any_layer import AnyLayerRule
from engine.attacks.matching.rules.attention import DecomposedAttention, decomposes
from engine.attacks.matching.rules.base import RULES, Rule

__all__ = [
    "RULES",
    "AnyLayerRule",
    "DecomposedAttention",
    "Rule",
    "batch_norm",
    "convolution",
    "decomposes",
    "embedding",
    "group_norm",
    "layer_norm",
    "linear",
]
