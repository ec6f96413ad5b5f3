"""From the results of trials to the groups of an audit: one figure with its interval each."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

import numpy as np

from engine.scoring.metrics import HIGHER_LEAKS
from engine.scoring.statistics import Estimate, estimate_mean, estimate_proportion, leakage_fraction

Result = Mapping[str, Any]
# What the oracle's defense is called: it knows the image, so no defense matters to it.
ANY_DEFENSE: Final = "any"


def summarise_groups(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Returns one group for each defense and attack, in the order they first occur.

    Args:
        results: Results of finished trials as ``docs/run-folder.md`` describes them.
    """
    grouped: dict[tuple[str, str], dict[int, Result]] = {}
    for result in results:
        grouped.setdefault((result["defense"], result["attack"]), {})[result["target"]] = result
    return [
        _summarise(defense, attack, members, grouped)
        for (defense, attack), members in grouped.items()
    ]


def _summarise(
    defense: str,
    attack: str,
    members: Mapping[int, Result],
    grouped: Mapping[tuple[str, str], Mapping[int, Result]],
) -> dict[str, Any]:
    results = list(members.values())
    fraction = _leakage_fraction(
        members, grouped.get((defense, "prior_only"), {}), grouped.get((ANY_DEFENSE, "oracle"), {})
    )
    return {
        "defense": defense,
        "attack": attack,
        "searcher": results[0]["searcher"],
        "n": len(results),
        "metrics": {name: _metric(name, results) for name in _measured(results)},
        "leakage_fraction": asdict(fraction) if fraction else None,
        "identification": _identification(results),
        "defense_change": float(np.mean([result["defense_change"] for result in results])),
        "evaluations": int(np.median([result["evaluations"] for result in results])),
        "wall_s": float(np.median([result["wall_s"] for result in results])),
    }


def _measured(results: Sequence[Result]) -> list[str]:
    """Returns the metrics every trial has; LPIPS may be missing where its weights are."""
    return [name for name in HIGHER_LEAKS if all(name in result["metrics"] for result in results)]


def _metric(name: str, results: Sequence[Result]) -> dict[str, float | None]:
    values = np.array([result["metrics"][name] for result in results])
    estimate = estimate_proportion if name == "label_accuracy" else estimate_mean
    worst = values.max() if HIGHER_LEAKS[name] else values.min()
    return {**asdict(estimate(values)), "worst": float(worst)}


def _identification(results: Sequence[Result]) -> dict[str, Any]:
    hits = {
        name: np.array([result["hits"][name] for result in results]) for name in results[0]["hits"]
    }
    among = int(np.median([result["among"] for result in results]))
    # Of many draws; all other attacks rebuild each image once.
    top1 = estimate_proportion(hits["top1"], often=results[0]["attack"] == "prior_only")
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
