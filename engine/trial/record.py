"""A trial's spec and result as plain values: what goes over the wire and into the run folder."""

import hashlib
import json
import socket
from dataclasses import asdict
from typing import Any

from engine.attacks.spaces import label_space
from engine.trial.parts import TrialResult, TrialSpec


def spec_hash(spec: TrialSpec) -> str:
    """Returns a hash of everything that determines the trial; states of others are not resumed."""
    text = json.dumps(asdict(spec), sort_keys=True, default=dict)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def searcher_of(spec: TrialSpec) -> str | None:
    """Returns what searches in a trial; None for controls that search nothing."""
    return spec.settings.searcher if spec.searches else None


def place_of(spec: TrialSpec) -> dict[str, Any]:
    """Returns where in the audit a trial belongs, as ``docs/run-folder.md`` describes it."""
    return {
        "defense": spec.defense_label,
        "attack": spec.attack,
        "of": spec.of or None,
        "searcher": searcher_of(spec),
        "target": spec.target,
        "seed": spec.seed,
    }


def to_record(spec: TrialSpec, result: TrialResult) -> dict[str, Any]:
    """Returns a trial as ``docs/run-folder.md`` describes it, without its arrays."""
    searched, evaluated = result.evaluations > 0, result.evaluations - result.restored
    return {
        "id": spec.id,
        "spec": spec_hash(spec),
        **place_of(spec),
        "loss": result.loss,
        "evaluations": result.evaluations,
        "cut_short": searched and result.evaluations < spec.budget,
        "nonfinite": result.nonfinite,
        "host": socket.gethostname(),
        "wall_s": round(result.wall_s, 4),
        "candidates_per_s": round(evaluated / result.wall_s, 1) if searched else None,
        "labels": list(result.labels),
        "inferred_labels": list(result.inferred_labels),
        "imitation": result.imitation,
        "matching": result.matching,
        "population": result.population,
        "chunk_size": result.chunk_size,
        "defense_change": result.defense_change,
        "among": result.among,
        "metrics": result.metrics,
        "hits": result.hits,
        "trace": [list(row) for row in result.trace],
    }


def to_params(spec: TrialSpec) -> dict[str, str | float]:
    """Returns a spec as the flat parameters tracking shows.

    Runs can be grouped by ``searcher``, which those that search nothing are without.
    """
    searcher = searcher_of(spec)
    searched: dict[str, str | float] = {} if searcher is None else {"searcher": searcher}
    belongs: dict[str, str | float] = {"of": spec.of} if spec.of else {}
    priors = ", ".join(f"{name}: {factor:g}" for name, factor in spec.settings.image_priors.items())
    return (
        searched
        | belongs
        | {
            "defense": spec.defense_label,
            "attack": spec.attack,
            "target": spec.target,
            "client_images": spec.images,
            "local_steps": spec.training.steps,
            "learning_rate": spec.training.learning_rate,
            "budget": spec.budget,
            "seed": spec.seed,
            "restarts": spec.settings.restarts,
            "scheduler": spec.settings.scheduler,
            "space": label_space(spec.settings.space, spec.settings.space_settings),
            "distance": spec.settings.distance,
            "regulariser": spec.settings.regulariser,
            "regulariser_weight": spec.settings.regulariser_weight,
            "image_priors": priors or "none",
            "adaptive": str(spec.settings.adaptive).lower(),
            "label_inference": spec.settings.label_inference,
            "label_hypotheses": spec.settings.label_hypotheses,
        }
    )


def to_metrics(record: dict[str, Any]) -> dict[str, float]:
    """Returns the flat figures of a finished trial that tracking shows."""
    figures = {**record["metrics"], **{f"identification_{k}": v for k, v in record["hits"].items()}}
    extra = {name: record[name] for name in ("loss", "evaluations", "nonfinite", "wall_s")}
    extra["defense_change"] = record["defense_change"]
    return {name: float(v) for name, v in {**figures, **extra}.items() if v is not None}
