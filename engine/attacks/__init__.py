"""The attacker's side: it sees the observed update and its knowledge, and nothing else."""

from engine.attacks.attack import (
    Reconstruction,
    attack_steps,
    prepare_objective,
    run_attack,
)
from engine.attacks.knowledge import ThreatKnowledge
from engine.attacks.objective import GradientMatchingObjective
from engine.attacks.presets import PRESETS
from engine.attacks.scores import Scores
from engine.attacks.search import (
    Evaluation,
    History,
    Progress,
    SearchResult,
    Steps,
    run_search,
    run_steps,
)
from engine.attacks.settings import AttackSettings
from engine.attacks.together import evaluate_together
from engine.attacks.turns import run_in_turn

__all__ = [
    "PRESETS",
    "AttackSettings",
    "Evaluation",
    "GradientMatchingObjective",
    "History",
    "Progress",
    "Reconstruction",
    "Scores",
    "SearchResult",
    "Steps",
    "ThreatKnowledge",
    "attack_steps",
    "evaluate_together",
    "prepare_objective",
    "run_attack",
    "run_in_turn",
    "run_search",
    "run_steps",
]
