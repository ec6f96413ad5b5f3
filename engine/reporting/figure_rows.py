"""What the report's figures draw, made ready: curves against evaluations, and strips of images."""

import bisect
import math
import statistics
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from engine.reporting.tables import TableRow, defenses_of, several_attacks, table_rows
from engine.scoring.variants import ATTACKING, is_attack
from engine.scoring.verdict import ATTACK

CONTROL_NAMES: Final = {
    "prior_only": "prior_only: no update used",
    "shuffled": "shuffled: another client's update",
    "random_best": "random_best: random search",
}
# Images side by side, however many of them a client has.
MAX_COLUMNS = 10
# Lines of single searches in a figure: more are no picture any more, and a page that nobody opens.
MAX_RUNS: Final = 60

# On a narrower range a logarithmic axis looks like a linear one, with worse ticks.
LOG_FROM = 3

Points = list[tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One quantity against evaluations.

    Attributes:
        name: What the vertical axis shows.
        runs: Points ``(evaluations, value)`` of each search, or of some spread over all of them.
        median: Points of the median over all searches.
        log: Whether the vertical axis is logarithmic.
        floor: Value of ``prior_only``, where there is one to compare with.
        ceiling: Value of the ``oracle``, likewise.
    """

    name: str
    runs: Sequence[Points]
    median: Points
    log: bool = False
    floor: float | None = None
    ceiling: float | None = None


@dataclass(frozen=True, kw_only=True)
class Strip:
    """One row of images.

    Attributes:
        name: What the images are.
        note: A second line: what attacked, or which defense a control belongs to.
        kind: ``original``, ``attack`` or the name of a control.
        images: For each target the name of its images, or None if there are none.
        psnr: For each target the mean PSNR of its images in dB, or None.
    """

    name: str
    note: str
    kind: str
    images: Sequence[str | None]
    psnr: Sequence[float | None]


def curves_of(summary: Mapping[str, Any], row: TableRow) -> list[Curve]:
    """Returns the loss and the PSNR of the attack on one defense; empty if nothing was traced."""
    traces = [
        trial["trace"]
        for trial in trials_of(summary, row.defense, ATTACK, row.by)
        if trial.get("trace")
    ]
    losses, psnrs = (
        [
            [(point[0], point[column]) for point in trace if point[column] is not None]
            for trace in traces
        ]
        for column in (1, 2)
    )
    if not any(losses):
        return []
    values = [value for run in losses for _, value in run]
    log = min(values) > 0 and max(values) > LOG_FROM * min(values)
    return [
        Curve(name="matching loss", runs=_spread(losses), median=median_of(losses), log=log),
        Curve(
            name="PSNR, dB",
            runs=_spread(psnrs),
            median=median_of(psnrs),
            floor=row.prior_only,
            ceiling=row.oracle,
        ),
    ]


def _spread(runs: Sequence[Points]) -> Sequence[Points]:
    """Returns all runs, or as many as a figure takes, by their order and never by their values."""
    return runs[:: math.ceil(len(runs) / MAX_RUNS)]


def median_of(runs: Sequence[Points]) -> Points:
    """Returns the median over the runs wherever one has a point; each run holds its last value.

    It starts where the last of the runs has begun.
    """
    runs = [run for run in runs if run]
    if not runs:
        return []
    begun = max(run[0][0] for run in runs)
    places = sorted({place for run in runs for place, _ in run if place >= begun})
    return [(place, statistics.median(_value_at(run, place) for run in runs)) for place in places]


def strips_of(
    summary: Mapping[str, Any], images: Container[str], *, first_controls_only: bool = False
) -> tuple[list[int], list[Strip]]:
    """Returns the first targets there is room for, and the strips of images to show of them.

    Targets are taken by their order, never by how well their images were rebuilt.

    Args:
        summary: The audit's summary.
        images: Names of the images there are.
        first_controls_only: Show the controls of the first defense only.
    """
    every = dict.fromkeys(trial["target"] for trial in summary["trials"])
    most = max(1, MAX_COLUMNS // columns_of(summary))
    targets = sorted(target for target in every if f"target/{target}" in images)[:most]
    originals = Strip(
        name="Original",
        note="what the client holds",
        kind="original",
        images=[f"target/{target}" for target in targets],
        psnr=[None] * len(targets),
    )
    strips = [originals]
    rows = table_rows(summary)
    several = several_attacks(rows)
    for index, defense in enumerate(defenses_of(summary)):
        names = [row.by for row in rows if row.defense == defense]
        if index == 0 or not first_controls_only:
            strips += [
                _strip(summary, images, targets, defense, control, by)
                for control in CONTROL_NAMES
                for by in (names if several and control == ATTACKING else [""])
            ]
        strips += [_strip(summary, images, targets, defense, ATTACK, by) for by in names]
    strips.append(_strip(summary, images, targets, "any", "oracle"))
    return targets, [strip for strip in strips if any(strip.images)]


def trials_of(
    summary: Mapping[str, Any], defense: str, kind: str, by: str = ""
) -> list[Mapping[str, Any]]:
    """Returns the trials of a control, or of ``ATTACK``, on a defense; of all if none is named."""
    return [
        trial
        for trial in summary["trials"]
        if trial["defense"] == defense
        and (is_attack(trial) if kind == ATTACK else trial["attack"] == kind)
        and by in ("", trial.get("by"))
    ]


def columns_of(summary: Mapping[str, Any]) -> int:
    """Returns how many of a client's images stand in a row, so that they make about a square."""
    return math.isqrt(summary["plan"]["client"]["images"] - 1) + 1


def unit_of(summary: Mapping[str, Any]) -> str:
    """Returns what a target is to a reader: its one image, or a client of several."""
    return "image" if summary["plan"]["client"]["images"] == 1 else "client"


def _value_at(run: Points, place: float) -> float:
    return run[bisect.bisect_right(run, place, key=lambda point: point[0]) - 1][1]


def _strip(
    summary: Mapping[str, Any],
    images: Container[str],
    targets: Sequence[int],
    defense: str,
    kind: str,
    by: str = "",
) -> Strip:
    """Returns the strip of the first trial for each target."""
    first: dict[int, Mapping[str, Any]] = {}
    for trial in trials_of(summary, defense, kind, by):
        if trial["id"] in images:
            first.setdefault(trial["target"], trial)
    names = {
        ATTACK: f"Attack, defense: {defense}",
        "oracle": "oracle: the generator's best",
        **CONTROL_NAMES,
    }
    whose = f"by {by}" if by else ""
    notes = {ATTACK: f"rebuilt {whose}".rstrip(), "oracle": "the ceiling"}
    found = [first.get(target, {}) for target in targets]
    return Strip(
        name=names[kind],
        note=notes.get(kind, ", ".join(filter(None, [f"defense: {defense}", whose]))),
        kind=kind,
        images=[trial.get("id") for trial in found],
        psnr=[(trial.get("metrics") or {}).get("psnr") for trial in found],
    )
