"""Defenses: what a client does to its update, and what an adaptive attacker makes of it.

One file a defense; importing this package registers them all.
"""

from engine.defenses.base import (
    DEFENSES,
    ClientContext,
    Defense,
    Imitation,
    apply_defenses,
    estimate_imitations,
    label_defenses,
)
from engine.defenses.clipping import Clipping, ClippingPerLayer
from engine.defenses.gaussian_noise import GaussianNoise
from engine.defenses.none import NoDefense
from engine.defenses.soteria import Soteria
from engine.defenses.sparsification import Sparsification

__all__ = [
    "DEFENSES",
    "ClientContext",
    "Clipping",
    "ClippingPerLayer",
    "Defense",
    "GaussianNoise",
    "Imitation",
    "NoDefense",
    "Soteria",
    "Sparsification",
    "apply_defenses",
    "estimate_imitations",
    "label_defenses",
]
