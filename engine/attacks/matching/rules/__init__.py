"""Rules by layer type, one file each; importing this registers them."""

from engine.attacks.matching.rules import (
    attention,
    batch_norm,
    convolution,
    embedding,
    group_norm,
    layer_norm,
    linear,
)
from engine.attacks.matching.rules.any_layer import AnyLayerRule
from engine.attacks.matching.rules.base import RULES, Rule
from engine.attacks.matching.rules.stand_ins import STAND_INS, StandIn

__all__ = [
    "RULES",
    "STAND_INS",
    "AnyLayerRule",
    "Rule",
    "StandIn",
    "attention",
    "batch_norm",
    "convolution",
    "embedding",
    "group_norm",
    "layer_norm",
    "linear",
]
