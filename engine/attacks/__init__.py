"""The attacker's side: it sees the observed update and its knowledge, and nothing else."""

from engine.attacks.attack import (
    PRESETS,
    AttackSettings,
    Reconstruction,
    prepare_objective,
    run_attack,
)
from engine.attacks.knowledge import ThreatKnowledge
from engine.attacks.objective import GradientMatchingObjective
from engine.attacks.search import Progress, SearchResult, run_search

__all__ = [
    "PRESETS",
    "AttackSettings",
    "GradientMatchingObjective",
    "Progress",
    "Reconstruction",
    "SearchResult",
    "ThreatKnowledge",
    "prepare_objective",
    "run_attack",
    "run_search",
]
