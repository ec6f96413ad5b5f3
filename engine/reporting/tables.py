"""Rows of the audit's table, and the table itself for the terminal and for Markdown."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from engine.scoring.variants import is_attack

MISSING: Final = "–"
NOT_MEASURED: Final = "not measured"

_STATUS_STYLES: Final = {"leaks": "bold red", "inconclusive": "yellow", "no leak shown": "cyan"}
_TERMINAL_COLUMNS: Final = (
    "Defense",
    "Update\nchanged",
    "Leakage\n(95 %)",
    "PSNR, dB\n(95 %)",
    "Floor,\nceiling",
    "Shuffled,\nrandom",
    "Identified\n(95 %)",
    "Label",
    "Status",
)
# What is left of a row's width for the name of its attack.
_NAME_WIDTH: Final = 15
# What a console of fewer columns than the whole table still shows.
_WHOLE_WIDTH: Final = 100
_NARROW_COLUMNS: Final = (0, 2, 3, 6, 8)
_MARKDOWN_COLUMNS: Final = (
    "Defense",
    "Update changed by",
    "Leakage fraction (95 %)",
    "PSNR of the attack, dB (95 %)",
    "Floor: prior_only, dB",
    "shuffled, dB",
    "random_best, dB",
    "Ceiling: oracle, dB",
    "Identified, top-1 (95 %)",
    "Chance",
    "Label inferred",
    "Status",
)


@dataclass(frozen=True)
class Estimate:
    """A mean over targets with its 95 % interval; None where it was not measured."""

    mean: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, kw_only=True)
class TableRow:
    """One attacked defense: what leaked, between the floor and the ceiling.

    Attributes:
        defense: The defense as a reader sees it.
        by: What attacked it; empty if nothing ran.
        searches: Searches behind the figures, one for each target and seed.
        defense_change: ``||observed - client update|| / ||client update||``, mean over targets.
        leakage: Leakage fraction, 0 at the floor and 1 at the ceiling; higher leaks more.
        psnr: PSNR of the attack in dB; higher leaks more.
        prior_only: The floor: mean PSNR of the generator's images, the update not used.
        shuffled: Mean PSNR of the attack against another client's update.
        random_best: Mean PSNR of random search at the same budget.
        oracle: The ceiling: mean PSNR of the best image the generator can draw.
        top1: Share of private images found first among their class.
        chance: What ``top1`` is by guessing.
        label_accuracy: Share of the private images' labels that were inferred.
        status: The verdict on this defense against this attack.
    """

    defense: str
    by: str
    searches: int
    defense_change: float | None
    leakage: Estimate
    psnr: Estimate
    prior_only: float | None
    shuffled: float | None
    random_best: float | None
    oracle: float | None
    top1: Estimate
    chance: float | None
    label_accuracy: float | None
    status: str


def table_rows(summary: Mapping[str, Any]) -> list[TableRow]:
    """Returns one row for each defense in the plan's order.

    A defense attacked in several ways has a row for each; one whose attacks failed altogether has a
    row without figures.
    """
    verdicts = {
        (entry["defense"], entry["by"]): entry for entry in summary["verdict"].get("defenses", ())
    }
    rows = []
    for defense in defenses_of(summary):
        attacks = [
            group for group in summary["groups"] if group["defense"] == defense and is_attack(group)
        ]
        rows += [
            _row(summary, defense, group, verdicts.get((defense, group.get("by")), {}))
            for group in attacks or [{}]
        ]
    return rows


def several_attacks(rows: Sequence[TableRow]) -> bool:
    """Returns whether the rows differ in their attacks, so that a reader must be told."""
    return len({row.by for row in rows if row.by}) > 1


def defenses_of(summary: Mapping[str, Any]) -> list[str]:
    """Returns the labels of the audited defenses in the plan's order."""
    listed = [*summary["verdict"].get("defenses", ()), *summary["groups"]]
    return list(dict.fromkeys(entry["defense"] for entry in listed if entry["defense"] != "any"))


def estimate_of(group: Mapping[str, Any], metric: str) -> Estimate:
    """Returns a group's estimate of a metric."""
    return _estimate((group.get("metrics") or {}).get(metric))


def find_group(
    summary: Mapping[str, Any], defense: str, control: str, by: str
) -> Mapping[str, Any]:
    """Returns the group of a control of an attack; empty if there is none.

    ``shuffled`` is that attack itself; the other controls are the same for every attack. Where
    the attack did not run, ``by`` is empty, and any will do.
    """
    groups = (
        group
        for group in summary["groups"]
        if group["attack"] == control
        and group["defense"] in (defense, "any")
        and (by == "" or group["by"] in (None, by))
    )
    found: Mapping[str, Any] = next(groups, {})
    return found


def number(value: float | None, digits: int = 1) -> str:
    """Returns a number with fixed digits and a true minus, or a dash."""
    if value is None or not math.isfinite(value):
        return MISSING
    text = f"{value:.{digits}f}"
    if float(text) == 0:
        text = text.removeprefix("-")
    return text.replace("-", "−")


def significant(value: float | None) -> str:
    """Returns a number of unknown magnitude with three significant digits, or a dash."""
    if value is None or not math.isfinite(value):
        return MISSING
    return f"{value:#.3g}".rstrip(".").replace("-", "−")


def percent(value: float | None) -> str:
    """Returns a share as a whole percentage, with one digit below 10 %, or a dash."""
    if value is None or not math.isfinite(value):
        return MISSING
    return f"{number(100 * value, 0 if abs(value) >= 0.0995 or value == 0 else 1)} %"


def interval(estimate: Estimate, *, percents: bool = False) -> str:
    """Returns an interval as ``low to high``; empty if there is none."""
    if estimate.low is None or estimate.high is None:
        return ""
    if percents:
        return f"{number(100 * estimate.low, 0)} to {number(100 * estimate.high, 0)} %"
    return f"{number(estimate.low)} to {number(estimate.high)}"


def render_terminal(summary: Mapping[str, Any], console: Console) -> None:
    """Prints the table and the verdict.

    Nothing is cut off; below 100 columns the table keeps to its most telling columns.
    """
    table = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False, show_lines=True)
    whole = tuple(range(len(_TERMINAL_COLUMNS)))
    shown = whole if console.width >= _WHOLE_WIDTH else _NARROW_COLUMNS
    for index, name in ((index, _TERMINAL_COLUMNS[index]) for index in shown):
        text = name in ("Defense", "Status")
        table.add_column(
            name,
            justify="left" if text else "right",
            overflow="fold",
            no_wrap=index > 0 and name != "Status",
            width=12 if name == "Status" else None,
        )
    rows = table_rows(summary)
    for row in rows:
        cells = _terminal_cells(row, with_name=several_attacks(rows))
        table.add_row(*(cells[index] for index in shown))
    verdict = summary["verdict"]
    status = str(verdict["status"])
    style = _STATUS_STYLES.get(status, "bold")
    console.print(table)
    console.print(
        Text("Leakage: 0 % is the floor (no update used), 100 % the ceiling (oracle).", style="dim")
    )
    console.print(Text.assemble((status.upper(), style), "  ", str(verdict["sentence"])))


def markdown_table(summary: Mapping[str, Any]) -> str:
    """Returns the table in Markdown, ending in a newline."""
    lines: list[Sequence[str]] = [_MARKDOWN_COLUMNS, ["---"] * len(_MARKDOWN_COLUMNS)]
    rows = table_rows(summary)
    for row in rows:
        cells = _markdown_cells(row, with_name=several_attacks(rows))
        lines.append([_in_markdown(cell) for cell in cells])
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _row(
    summary: Mapping[str, Any],
    defense: str,
    attack: Mapping[str, Any],
    verdict: Mapping[str, Any],
) -> TableRow:
    by = attack.get("by") or ""

    def psnr_of(control: str) -> float | None:
        return estimate_of(find_group(summary, defense, control, by), "psnr").mean

    identified = attack.get("identification") or {}
    return TableRow(
        defense=defense,
        by=by,
        searches=attack.get("n", 0),
        defense_change=attack.get("defense_change"),
        leakage=_estimate(attack.get("leakage_fraction")),
        psnr=estimate_of(attack, "psnr"),
        prior_only=psnr_of("prior_only"),
        shuffled=psnr_of("shuffled"),
        random_best=psnr_of("random_best"),
        oracle=psnr_of("oracle"),
        top1=Estimate(identified.get("top1"), identified.get("low"), identified.get("high")),
        chance=identified.get("chance"),
        label_accuracy=estimate_of(attack, "label_accuracy").mean,
        status=verdict.get("status", NOT_MEASURED),
    )


def _estimate(value: Mapping[str, Any] | None) -> Estimate:
    value = value or {}
    return Estimate(value.get("mean"), value.get("low"), value.get("high"))


def _terminal_cells(row: TableRow, *, with_name: bool) -> list[Text]:
    cells = [
        _stacked(_broken(row.defense), _broken_name(row.by) if with_name else ""),
        percent(row.defense_change),
        _stacked(percent(row.leakage.mean), interval(row.leakage, percents=True)),
        _stacked(number(row.psnr.mean), interval(row.psnr)),
        _stacked(number(row.prior_only), number(row.oracle)),
        _stacked(number(row.shuffled), number(row.random_best)),
        _stacked(
            percent(row.top1.mean),
            interval(row.top1, percents=True),
            f"by luck {percent(row.chance)}" if row.chance is not None else "",
        ),
        percent(row.label_accuracy),
    ]
    return [*map(Text, cells), Text(row.status, style=_STATUS_STYLES.get(row.status, ""))]


def _stacked(*lines: str) -> str:
    return "\n".join(filter(None, lines))


def _broken(label: str) -> str:
    """Breaks a defense's label where a reader would: before settings and between defenses."""
    return label.replace(" + ", " +\n").replace("(", "\n(")


def _broken_name(name: str) -> str:
    """Breaks the name of an attack behind its underscores, if it is too long for its column."""
    return name.replace("_", "_\n") if len(name) > _NAME_WIDTH else name


def _markdown_cells(row: TableRow, *, with_name: bool) -> Sequence[str]:
    return (
        f"{row.defense} / {row.by}" if with_name else row.defense,
        percent(row.defense_change),
        _bracketed(percent(row.leakage.mean), interval(row.leakage, percents=True)),
        _bracketed(number(row.psnr.mean), interval(row.psnr)),
        number(row.prior_only),
        number(row.shuffled),
        number(row.random_best),
        number(row.oracle),
        _bracketed(percent(row.top1.mean), interval(row.top1, percents=True)),
        percent(row.chance),
        percent(row.label_accuracy),
        row.status,
    )


def _bracketed(mean: str, bounds: str) -> str:
    return f"{mean} ({bounds})" if bounds else mean


def _in_markdown(cell: str) -> str:
    """Escapes what would break out of a Markdown cell."""
    for character, escaped in (("\\", "\\\\"), ("|", "\\|"), ("<", "&lt;"), ("\n", " ")):
        cell = cell.replace(character, escaped)
    return cell
