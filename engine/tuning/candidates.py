"""The second fan-out: every candidate is a Ray Tune trial that Tune's search algorithm proposes."""

import functools
import json
import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from engine.attacks.attack import space_to_check
from engine.errors import InfrastructureError
from engine.lab import trial_specs
from engine.plan import Plan
from engine.run_folder import RunFolder, storing
from engine.trial import knowledge_of, search_seed
from engine.trial.candidates import Problem, conclude_trial, problem_of
from engine.trial.parts import Lab, Outcome, TrialSpec
from engine.trial.record import spec_hash
from engine.tuning.candidate_log import CandidateLog
from engine.tuning.fan_out import HUNG, WORKER_LOSSES, Listener, fit, resources_of, run_trials
from engine.tuning.worker import news_of, news_of_error, prepare
from search_spaces.latent import LatentSpace
from search_spaces.native import to_points, to_tune

AS_MANY_AS_PROPOSED: Final = -1


def run_candidates(
    plan: Plan, trials: Sequence[str], folder: Path, listener: Listener, lab: Lab
) -> None:
    """Runs the named trials, searches one after the other with each candidate a Tune trial.

    Trials that are no searches run as :func:`run_trials` has it, before all others.

    Args:
        plan: The audit's plan.
        trials: Ids of the trials to run.
        folder: The run folder, where the losses of unfinished searches are kept.
        listener: Hears of every trial, in this process.
        lab: What the trials share, for the space that each searches.

    Raises:
        KeyboardInterrupt: If the user interrupts; which trials finished is what the listener heard.
    """
    specs = {spec.id: spec for spec in trial_specs(plan)}
    others = [name for name in trials if not specs[name].searches]
    if others:
        run_trials(plan, others, folder, listener)
    for name in trials:
        if name not in others and listener.holds():
            _run_search(plan, specs[name], folder, listener, lab)


def _run_search(plan: Plan, spec: TrialSpec, folder: Path, listener: Listener, lab: Lab) -> None:
    """Runs one search and tells of its outcome."""
    listener.started(spec.id)
    started = time.monotonic()
    with storing(folder):
        path = RunFolder(folder).trial_folder(spec.id) / "candidates.jsonl"
        log = CandidateLog(path, spec_hash(spec), spec.budget, may_write=listener.holds)
    try:
        space = space_to_check(spec.settings, knowledge_of(spec, lab))
        proposals = _propose(spec, space, log, listener)
        if proposals.failure is None and not log.known.all():
            _evaluate(plan, spec, space, proposals, listener)
        if proposals.error is not None:
            with storing(folder):
                raise proposals.error
        if proposals.failure is None and not log.known.all():
            raise InfrastructureError(
                f"Expected Ray Tune to have every candidate of {spec.id} evaluated, but it ended "
                f"before. What is known is kept; go on with: leaktune resume {folder}"
            )
        if proposals.failure is not None:
            news: Mapping[str, Any] = proposals.failure
        else:
            points = to_points(space, proposals.suggestions)
            seconds = time.monotonic() - started
            news = _score(plan, spec, points, log.losses, seconds, listener)
    except InfrastructureError:
        raise
    except Exception as error:  # Shown to the user, counted as failed, never dropped.
        news = news_of_error(error)
    if "error" in news:
        listener.failed(spec.id, news["error"], news["traceback"])
    else:
        listener.finished(spec.id, news["result"], news["arrays"])


def _propose(spec: TrialSpec, space: LatentSpace, log: CandidateLog, listener: Listener) -> Any:
    """Returns the search's proposals, brought to where the losses known leave them."""
    from engine.tuning.algorithms import make_algorithm
    from engine.tuning.proposals import Proposals

    algorithm, generation = make_algorithm(
        spec.settings, space, budget=spec.budget, seed=search_seed(spec)
    )
    proposals = Proposals(
        algorithm,
        generation=generation,
        log=log,
        on_progress=lambda evaluations, loss: listener.progressed(
            spec.id, evaluations, loss if math.isfinite(loss) else None
        ),
    )
    proposals.advance()
    return proposals


def _evaluate(
    plan: Plan, spec: TrialSpec, space: LatentSpace, proposals: Any, listener: Listener
) -> None:
    """Has the candidates whose loss is not known evaluated, each in a Tune trial."""
    from ray import tune

    from engine.tuning.callback import HangCallback, LossCallback
    from engine.tuning.scheduler import InOrder

    hangs = HangCallback(
        plan.compute.hang_seconds, lambda _, seconds: listener.hung(spec.id, seconds)
    )
    losses = LossCallback(lambda error: listener.lost(spec.id, error), proposals.lose)
    with tempfile.TemporaryDirectory(prefix="leaktune-tune-") as scratch:
        trainable = tune.with_resources(
            tune.with_parameters(evaluate, plan=json.dumps(plan.to_dict()), trial=spec.id),
            resources_of(plan.compute),
        )
        tuner = tune.Tuner(
            trainable,
            param_space=to_tune(space),
            tune_config=tune.TuneConfig(
                metric="loss",
                mode="min",
                search_alg=proposals,
                scheduler=InOrder(),
                num_samples=AS_MANY_AS_PROPOSED,
                max_concurrent_trials=plan.compute.workers,
                reuse_actors=True,
                trial_name_creator=str,
                trial_dirname_creator=lambda trial: str(trial.trial_id),
            ),
            run_config=tune.RunConfig(
                name="search",
                storage_path=scratch,
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=WORKER_LOSSES),
                callbacks=[hangs, losses],
            ),
        )
        fit(tuner)


def evaluate(config: Mapping[str, float], plan: str, trial: str) -> None:
    """Evaluates one candidate of a trial; the function Ray Tune calls.

    Reports its loss; where there is none, the error and its traceback beside it.

    Args:
        config: The candidate by the names of its coordinates.
        plan: The plan as JSON.
        trial: Id of the trial.
    """
    from ray import tune

    try:
        tune.report({"loss": _problem(plan, trial).loss_of(config)})
    except Exception as error:  # Shown to the user, counted as failed, never dropped.
        tune.report({"loss": float("nan"), **news_of_error(error)})


@functools.lru_cache(maxsize=1)
def _problem(plan: str, trial: str) -> Problem:
    [spec], lab = prepare(plan, [trial])
    return problem_of(spec, lab)


def _score(
    plan: Plan,
    spec: TrialSpec,
    points: np.ndarray,
    losses: np.ndarray,
    seconds: float,
    listener: Listener,
) -> Mapping[str, Any]:
    """Returns the outcome of a search that took ``seconds``, scored by a worker."""
    import ray

    compute = plan.compute
    scorer = ray.remote(num_cpus=compute.cpus_per_trial, num_gpus=compute.gpus_per_trial)(score)
    for tried in range(1, WORKER_LOSSES + 1):
        task = scorer.remote(json.dumps(plan.to_dict()), spec.id, points, losses, seconds)
        patience = None if compute.hang_seconds is None else tried * compute.hang_seconds
        if ray.wait([task], timeout=patience)[0]:
            news: Mapping[str, Any] = ray.get(task)
            return news
        listener.hung(spec.id, patience or 0.0)
        ray.cancel(task, force=True)
    return {"error": HUNG, "traceback": "Its candidates are scored by one worker after the other."}


def score(
    plan: str, trial: str, points: np.ndarray, losses: np.ndarray, seconds: float
) -> dict[str, Any]:
    """Scores a search; see :func:`engine.trial.candidates.conclude_trial`."""
    [spec], lab = prepare(plan, [trial])
    try:
        result = conclude_trial(spec, lab, points=points, losses=losses)
    except Exception as error:  # Shown to the user, counted as failed, never dropped.
        return news_of_error(error)
    return news_of(Outcome(spec, replace(result, wall_s=seconds)))
