"""Chooses settings of an attack by what an attacker has: its matching losses."""

import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.attacks import prepare_objective, run_attack
from engine.errors import PlanError
from engine.lab import trial_specs
from engine.plan import Plan, make_plan
from engine.scoring.variants import CONTROLS
from engine.trial import knowledge_of, observe, search_seed
from engine.trial.parts import Lab, TrialSpec
from engine.tuning.fan_out import WORKER_LOSSES, fit, resources_of
from engine.tuning.worker import prepare
from search_spaces.native import grid_to_tune

Point = Mapping[str, Any]


@dataclass(frozen=True)
class Tuned:
    """How settings did, over all updates of a plan.

    Attributes:
        settings: Values by their keys in a plan.
        rank: Mean over updates of the place among all settings by loss, from 1.
        relative_loss: Geometric mean over updates of the loss, relative to the lowest of all
            settings for the same update.
        best_on: On how many updates the loss is the lowest.
        updates: Number of updates.
        seconds: Mean seconds of a search.
    """

    settings: Point
    rank: float
    relative_loss: float
    best_on: int
    updates: int
    seconds: float


@dataclass(frozen=True)
class Failed:
    """Settings whose searches did not end.

    Attributes:
        settings: Values by their keys in a plan.
        reason: What failed.
    """

    settings: Point
    reason: str


def with_settings(plan: Plan, settings: Point) -> Plan:
    """Returns the plan with some keys set; raises PlanError if it cannot be."""
    if plan.attacks is not None:
        raise PlanError(
            f"Expected one attack to tune, got attacks: {', '.join(plan.attacks)}. Give a plan "
            "with attack in place of them."
        )
    values = plan.to_dict()
    for key, value in settings.items():
        *parents, last = key.split(".")
        place = values
        for parent in parents:
            place[parent] = dict(place[parent] or {})
            place = place[parent]
        place[last] = value
    return make_plan(values, source=", ".join(f"{key}={value}" for key, value in settings.items()))


def tune_attack(
    plan: Plan, axes: Mapping[str, Sequence[Any]], *, on_done: Callable[[Point], None]
) -> tuple[list[Tuned], list[Failed]]:
    """Attacks all updates of a plan with every combination of settings, each a Tune trial.

    Args:
        plan: Whose targets, defenses and seeds are attacked, and whose other settings are kept.
        axes: Keys and values that :func:`search_spaces.attack_settings.check_axes` lets pass.
        on_done: Called with the settings of each trial that is over.

    Returns:
        The combinations that attacked all updates, that of the lowest mean rank first, ranked among
        themselves; then those that failed.
    """
    from ray import tune

    from engine.tuning.callback import DoneCallback

    with tempfile.TemporaryDirectory(prefix="leaktune-tune-") as scratch:
        trainable = tune.with_resources(
            tune.with_parameters(search_updates, plan=json.dumps(plan.to_dict())),
            resources_of(plan.compute),
        )
        tuner = tune.Tuner(
            trainable,
            param_space=grid_to_tune(axes),
            # Each has a worker of its own: Tune gives up a trial whose worker, which had another
            # before, is lost as it is made ready for it.
            tune_config=tune.TuneConfig(
                max_concurrent_trials=plan.compute.workers, reuse_actors=False
            ),
            run_config=tune.RunConfig(
                name="settings",
                storage_path=scratch,
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=WORKER_LOSSES),
                callbacks=[DoneCallback(on_done)],
            ),
        )
        results = fit(tuner)
        reports = [(one.config, one.metrics or {}) for one in results]
    ended = [(settings, report) for settings, report in reports if "losses" in report]
    failed = [
        Failed(settings, report.get("error", "its workers were lost too often"))
        for settings, report in reports
        if "losses" not in report
    ]
    ranked = rank_settings(
        [settings for settings, _ in ended],
        np.array([report["losses"] for _, report in ended]),
        [report["seconds"] for _, report in ended],
    )
    return ranked, failed


def rank_settings(
    settings: Sequence[Point], losses: np.ndarray, seconds: Sequence[float]
) -> list[Tuned]:
    """Returns settings by mean rank, which no scale of a loss and no noise in it sways.

    Args:
        settings: ``S`` of them.
        losses: Of every update with each of them, ``(S, updates)``, positive.
        seconds: Mean seconds of a search with each of them.
    """
    if not settings:
        return []
    better = (losses[:, None] > losses[None]).sum(1)
    equal = (losses[:, None] == losses[None]).sum(1)
    ranks = 1 + better + (equal - 1) / 2
    lowest = losses.min(0)
    relative = np.exp(np.log(np.maximum(losses, 1e-300) / np.maximum(lowest, 1e-300)).mean(1))
    found = [
        Tuned(
            settings=point,
            rank=float(ranks[place].mean()),
            relative_loss=float(relative[place]),
            best_on=int((losses[place] == lowest).sum()),
            updates=losses.shape[1],
            seconds=float(seconds[place]),
        )
        for place, point in enumerate(settings)
    ]
    return sorted(found, key=lambda one: (one.rank, one.relative_loss))


def search_updates(config: Point, plan: str) -> None:
    """Attacks every update of a plan with some settings; the function Ray Tune calls.

    Reports the losses in the order of the plan's trials, and seconds; where there are none, the
    error. Nothing is scored against private images.
    """
    from ray import tune

    try:
        own = with_settings(make_plan(json.loads(plan), source="plan"), config)
        started, (_, lab) = time.monotonic(), prepare(plan, [])
        losses = [_search(spec, lab) for spec in trial_specs(own) if spec.attack not in CONTROLS]
        tune.report({"losses": losses, "seconds": (time.monotonic() - started) / len(losses)})
    except Exception as error:  # Shown to the user by the driver.
        tune.report({"error": f"{type(error).__name__}: {error}"})


def _search(spec: TrialSpec, lab: Lab) -> float:
    observed, _ = observe(spec, lab, spec.target)
    objective = prepare_objective(observed, knowledge_of(spec, lab), spec.settings)
    found = run_attack(objective, spec.settings, budget=spec.budget, seed=search_seed(spec))
    return found.loss
