"""Compares candidates' updates with an observed one, without computing them where possible."""

from engine.attacks.matching.chunks import FEWEST, Chunks, filled_up, is_out_of_memory
from engine.attacks.matching.contributions import CANCELLATION, SMALL
from engine.attacks.matching.kernels import Kernels
from engine.attacks.matching.matcher import Matcher, make_matcher
from engine.attacks.matching.moments import Moments, Observation, Place

__all__ = [
    "CANCELLATION",
    "FEWEST",
    "SMALL",
    "Chunks",
    "Kernels",
    "Matcher",
    "Moments",
    "Observation",
    "Place",
    "filled_up",
    "is_out_of_memory",
    "make_matcher",
]
