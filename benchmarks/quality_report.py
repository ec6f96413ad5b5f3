"""What searches reached, over targets: tables, the two claims about the default, and curves."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.search_quality import DEFENSES
from engine.attacks import AttackSettings
from engine.scoring.statistics import Estimate, estimate_mean, estimate_proportion

Row = Mapping[str, Any]
# What the default is held against, and where.
PRESET: Final = "ggl preset"
PUBLISHED: Final = (PRESET, "ggl")
PUBLISHED_BUDGET: Final = 25_000
AIM: Final = 2_500


def summarise(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """Returns, by ``searcher/defense/budget``, what searches reached over the targets.

    ``excess`` is where the loss lies between the lowest that any search found for the same update
    (0) and the median of the generator's prior (1): comparable over targets and defenses, behind
    noise too, where most of every loss is the noise's own.
    """
    lowest, prior = _references(rows)
    found: dict[str, dict[str, Any]] = {}
    for (searcher, defense, budget), looks in sorted(_by_look(rows).items()):
        excess = [
            (look["loss"] - lowest[update]) / (prior[update] - lowest[update])
            for update, look in ((_update(look["row"]), look) for look in looks)
        ]
        found[f"{searcher}/{defense}/{budget}"] = {
            "searcher": searcher,
            "defense": defense,
            "budget": budget,
            "n": len(looks),
            "loss": float(np.median([look["loss"] for look in looks])),
            "excess": float(np.median(excess)),
            "excess_quartiles": [float(q) for q in np.quantile(excess, (0.25, 0.75))],
            "psnr": _bounds(estimate_mean(np.array([look["psnr"] for look in looks]))),
            "identified": _bounds(
                estimate_proportion(np.array([look["identified"] for look in looks]))
            ),
            "seconds": float(np.median([look["seconds"] for look in looks])),
            "searcher_share": float(np.median([look["searcher_share"] for look in looks])),
        }
    return found


def claims(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """Returns, by ``reference/defense``, how the default stands to the published search.

    ``reached_after`` is the median over targets of the evaluations after which the default's loss
    is no higher than the published search's after ``PUBLISHED_BUDGET`` (infinite where it never
    is); ``wins`` the share of targets where the default ends lower, by budget.
    """
    default = AttackSettings().searcher
    losses: dict[tuple[str, int], dict[tuple[str, int], float]] = defaultdict(dict)
    curves: dict[tuple[str, int], list[list[float]]] = {}
    for (searcher, _, budget), looks in _by_look(rows).items():
        for look in looks:
            losses[searcher, budget][_update(look["row"])] = look["loss"]
            if searcher == default and budget == look["row"]["budget"]:
                curves[_update(look["row"])] = look["row"]["curve"]
    found = {}
    for reference in PUBLISHED:
        for defense in DEFENSES:
            aims = {
                update: loss
                for update, loss in losses[reference, PUBLISHED_BUDGET].items()
                if update[0] == defense and update in curves
            }
            if aims:
                reached = [_reached(curves[update], loss) for update, loss in aims.items()]
                found[f"{reference}/{defense}"] = {
                    "n": len(aims),
                    "reached_after": float(np.median(reached)),
                    "within_aim": float(np.mean([after <= AIM for after in reached])),
                    "wins": {
                        str(budget): _wins(
                            losses[default, budget], losses[reference, budget], list(aims)
                        )
                        for searcher, budget in sorted(losses)
                        if searcher == reference
                    },
                }
    return found


def _wins(
    ours: Mapping[tuple[str, int], float],
    theirs: Mapping[tuple[str, int], float],
    updates: Sequence[tuple[str, int]],
) -> float | None:
    """Returns the share of updates where ours is lower; None unless both searched them all."""
    if not all(update in ours and update in theirs for update in updates):
        return None
    return float(np.mean([ours[update] < theirs[update] for update in updates]))


def markdown(rows: Sequence[Row]) -> str:
    """Returns a table for every budget, and the claims, in Markdown."""
    summary = summarise(rows)
    parts = [_claims_table(claims(rows))]
    for budget in sorted({row["budget"] for row in summary.values()}):
        parts.append(_budget_table(budget, summary))
    return "\n\n".join(parts) + "\n"


def plot(rows: Sequence[Row], searchers: Sequence[str], path: Path) -> None:
    """Draws, for each defense, the median excess of some searchers against evaluations.

    Of each searcher the runs at the budget that most targets were searched at, the largest such.
    Not that of the published preset, whose losses along the search are others.
    """
    from matplotlib.figure import Figure

    lowest, prior = _references(rows)
    figure = Figure(figsize=(13, 3.4), layout="constrained")
    axes = figure.subplots(1, len(DEFENSES), sharey=True)
    for axis, defense in zip(axes, DEFENSES, strict=True):
        for searcher in searchers:
            curves = _curves(rows, searcher, defense, lowest, prior)
            if curves is None:
                continue
            evaluations, excess = curves
            low, middle, high = np.quantile(excess, (0.25, 0.5, 0.75), axis=0)
            [line] = axis.plot(evaluations, middle, label=searcher)
            axis.fill_between(evaluations, low, high, color=line.get_color(), alpha=0.15)
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_ylim(1e-3, 2)
        axis.set_title(defense)
        axis.set_xlabel("evaluations")
    axes[0].set_ylabel("excess of the loss")
    drawn = max(axes, key=lambda axis: len(axis.lines))
    axes[0].legend(handles=list(drawn.lines), fontsize=7)
    figure.savefig(path, dpi=110)


def _by_look(rows: Sequence[Row]) -> dict[tuple[str, str, int], list[dict[str, Any]]]:
    """Returns what each search had found at each budget looked at, by searcher, defense, budget."""
    found: dict[tuple[str, str, int], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        for budget, look in row["at"].items():
            found[row["searcher"], row["defense"], int(budget)].append({**look, "row": row})
    return found


def _references(rows: Sequence[Row]) -> tuple[dict[Any, float], dict[Any, float]]:
    """Returns each update's lowest loss found, and the median loss of the prior."""
    lowest: dict[Any, float] = {}
    prior: dict[Any, float] = {}
    for row in rows:
        update = _update(row)
        for look in row["at"].values():
            lowest[update] = min(lowest.get(update, np.inf), look["loss"])
        if row["searcher"] == "random":
            prior[update] = row["prior"]
        elif row["searcher"] != PRESET:
            prior.setdefault(update, row["prior"])
    return lowest, prior


def _update(row: Row) -> tuple[str, int]:
    return row["defense"], row["target"]


def _curves(
    rows: Sequence[Row],
    searcher: str,
    defense: str,
    lowest: Mapping[Any, float],
    prior: Mapping[Any, float],
) -> tuple[np.ndarray, np.ndarray] | None:
    chosen = [row for row in rows if (row["searcher"], row["defense"]) == (searcher, defense)]
    if not chosen:
        return None
    targets = Counter(row["budget"] for row in chosen)
    shown = max(targets, key=lambda budget: (targets[budget], budget))
    chosen = [row for row in chosen if row["budget"] == shown]
    excess = [
        [(loss - lowest[_update(row)]) / (prior[_update(row)] - lowest[_update(row)])]
        for row in chosen
        for _, loss in row["curve"]
    ]
    evaluations = np.array([point[0] for point in chosen[0]["curve"]])
    return evaluations, np.array(excess).reshape(len(chosen), len(evaluations))


def _reached(curve: Sequence[Sequence[float]], loss: float) -> float:
    return next((float(evaluations) for evaluations, found in curve if found <= loss), np.inf)


def _bounds(estimate: Estimate) -> dict[str, float | None]:
    return {"mean": estimate.mean, "low": estimate.low, "high": estimate.high}


def _claims_table(found: Mapping[str, Row]) -> str:
    budgets = list(next(iter(found.values()))["wins"]) if found else []
    heads = [
        "Against",
        "Defense",
        "Targets",
        f"Its loss after {PUBLISHED_BUDGET:,} reached after (median)",
        f"within {AIM:,}",
        *(f"ends lower at {int(budget):,}" for budget in budgets),
    ]
    lines = ["| " + " | ".join(heads) + " |", "| --- " * len(heads) + "|"]
    for name, row in found.items():
        shares = (row["wins"][budget] for budget in budgets)
        wins = " | ".join("" if share is None else f"{share:.0%}" for share in shares)
        lines.append(
            f"| {name.replace('/', ' | ')} | {row['n']} | {row['reached_after']:,.0f} | "
            f"{row['within_aim']:.0%} | {wins} |"
        )
    return "\n".join(lines)


def _budget_table(budget: int, summary: Mapping[str, Row]) -> str:
    rows = [row for row in summary.values() if row["budget"] == budget]
    by_searcher: dict[str, dict[str, Row]] = defaultdict(dict)
    for row in rows:
        by_searcher[row["searcher"]][row["defense"]] = row
    order = sorted(
        by_searcher, key=lambda name: np.mean([row["excess"] for row in by_searcher[name].values()])
    )
    lines = [
        f"### {budget:,} evaluations",
        "",
        "| Searcher | " + " | ".join(DEFENSES) + " | s a search | its share |",
        "| --- " * (3 + len(DEFENSES)) + "|",
    ]
    most = max(row["n"] for row in rows)
    for name in order:
        cells = [_cell(by_searcher[name].get(defense)) for defense in DEFENSES]
        some = list(by_searcher[name].values())
        seconds = np.median([row["seconds"] for row in some])
        share = np.median([row["searcher_share"] for row in some])
        label = name + _fewer([row["n"] for row in some], most)
        lines.append(f"| {label} | " + " | ".join(cells) + f" | {seconds:.2g} | {share:.0%} |")
    return "\n".join(lines)


def _fewer(targets: Sequence[int], most: int) -> str:
    """Returns of how many targets figures are, if that is not what others in the table are of."""
    least, largest = min(targets), max(targets)
    if least == most:
        return ""
    return f" (of {least} targets)" if least == largest else f" (of {least} to {largest} targets)"


def _cell(row: Row | None) -> str:
    if row is None:
        return ""
    psnr = row["psnr"]
    interval = "" if psnr["low"] is None else f" ({psnr['low']:.1f} to {psnr['high']:.1f})"
    return f"{row['excess']:.2%}, {psnr['mean']:.1f} dB{interval}, {row['identified']['mean']:.0%}"
