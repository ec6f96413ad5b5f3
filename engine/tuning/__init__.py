"""Trials on Ray Tune: the only room that knows Ray."""

from engine.tuning.attack_settings import Tuned, tune_attack
from engine.tuning.candidates import run_candidates
from engine.tuning.cluster import connect
from engine.tuning.fan_out import Listener, run_trials
from engine.tuning.machines import check_machines, describe_machines

__all__ = [
    "Listener",
    "Tuned",
    "check_machines",
    "connect",
    "describe_machines",
    "run_candidates",
    "run_trials",
    "tune_attack",
]
