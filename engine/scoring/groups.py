"""From the results of trials to the groups of an audit: one figure with its interval each."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

import numpy as np

from engine.scoring.metrics import HIGHER_LEAKS
from engine.scoring.statistics import Estimate, estimate_mean, estimate_proportion, leakage_fraction

Result = Mapping[str, Any]
Key = tuple[str, str, str | None]  # Defense, attack or control, and by whom if that matters.
# What the oracle's defense is called: it knows the image, so no defense matters to it.
ANY_DEFENSE: Final = "any"


def summarise_groups(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Returns one group for each defense, and attack or control, in the order they first occur.

    Where a target has results of several seeds, their mean is its one value: seeds of a target are
    no further targets, so intervals over all of them would be too narrow.

    Args:
        results: Results of finished trials as ``docs/run-folder.md`` describes them, named by
            :func:`engine.scoring.variants.with_names`.
    """
    grouped: dict[Key, list[Result]] = {}
    for result in results:
        key = (result["defense"], result["attack"], result["by"])
        grouped.setdefault(key, []).append(result)
    values = {key: _by_target(members) for key, members in grouped.items()}
    return [_summarise(key, members, values) for key, members in grouped.items()]


def _by_target(results: Sequence[Result]) -> dict[int, Result]:
    """Returns what was measured on each target, averaged over its results."""
    of_targets: dict[int, list[Result]] = {}
    for result in results:
        of_targets.setdefault(result["target"], []).append(result)
    return {
        target: {
            "metrics": _mean([result["metrics"] for result in repeated]),
            "hits": _mean([result["hits"] for result in repeated]),
        }
        for target, repeated in of_targets.items()
    }


def _mean(figures: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Returns the means of the figures that all have; LPIPS may be missing without its weights."""
    shared = [name for name in figures[0] if all(name in some for some in figures)]
    return {name: float(np.mean([some[name] for some in figures])) for name in shared}


def _summarise(
    key: Key, members: Sequence[Result], values: Mapping[Key, Mapping[int, Result]]
) -> dict[str, Any]:
    defense, attack, by = key
    targets = values[key]
    fraction = _leakage_fraction(
        targets,
        values.get((defense, "prior_only", None), {}),
        values.get((ANY_DEFENSE, "oracle", None), {}),
    )
    measured = list(targets.values())
    return {
        "defense": defense,
        "attack": attack,
        "searcher": members[0]["searcher"],
        "by": by,
        "n": len(members),
        "targets": len(targets),
        "metrics": {name: _metric(name, measured) for name in _measured(measured)},
        "leakage_fraction": asdict(fraction) if fraction else None,
        "identification": _identification(
            measured,
            among=int(np.median([result["among"] for result in members])),
            often=attack == "prior_only",  # Of many draws; searches rebuild an image once a seed.
        ),
        "defense_change": float(np.mean([result["defense_change"] for result in members])),
        "evaluations": int(np.median([result["evaluations"] for result in members])),
        "wall_s": float(np.median([result["wall_s"] for result in members])),
    }


def _measured(results: Sequence[Result]) -> list[str]:
    """Returns the metrics that every target has."""
    return [name for name in HIGHER_LEAKS if all(name in result["metrics"] for result in results)]


def _metric(name: str, results: Sequence[Result]) -> dict[str, float | None]:
    values = np.array([result["metrics"][name] for result in results])
    estimate = estimate_proportion if name == "label_accuracy" else estimate_mean
    worst = values.max() if HIGHER_LEAKS[name] else values.min()
    return {**asdict(estimate(values)), "worst": float(worst)}


def _identification(results: Sequence[Result], *, among: int, often: bool) -> dict[str, Any]:
    hits = {
        name: np.array([result["hits"][name] for result in results]) for name in results[0]["hits"]
    }
    top1 = estimate_proportion(hits["top1"], often=often)
    return {
        "top1": top1.mean,
        "top5": float(hits["top5"].mean()),
        "among": among,
        "chance": 1 / among,
        "low": top1.low,
        "high": top1.high,
        "space": "pixels",
        "features_top1": float(hits["top1_features"].mean()),
        "features_top5": float(hits["top5_features"].mean()),
    }


def _leakage_fraction(
    attack: Mapping[int, Result], floor: Mapping[int, Result], ceiling: Mapping[int, Result]
) -> Estimate | None:
    targets = [target for target in attack if target in floor and target in ceiling]
    if not targets:
        return None
    attacked, drawn, projected = (
        np.array([group[target]["metrics"]["psnr"] for target in targets])
        for group in (attack, floor, ceiling)
    )
    return leakage_fraction(attacked, drawn, projected)
