"""The report: a summary rendered as one HTML file that needs no network and runs no script."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from engine.reporting import tables
from engine.reporting.figure_rows import columns_of, curves_of, strips_of, trials_of, unit_of
from engine.reporting.figures import draw_attacks, draw_curves, png_data_uri, svg_data_uri
from engine.reporting.paper_table import COLUMNS, CONVENTION, paper_rows
from engine.reporting.tables import Estimate, TableRow, table_rows
from engine.scoring.verdict import ATTACK

# The bar of the leakage fraction shows a tenth beyond the floor and beyond the ceiling.
_BAR_LOW, _BAR_HIGH = -0.1, 1.1

_METRIC_NAMES: Final = {
    "psnr": "PSNR, dB",
    "ssim": "SSIM",
    "mse": "MSE",
    "mse_r": "MSE-R",
    "feature_distance": "Feature distance",
    "lpips": "LPIPS (AlexNet)",
    "lpips_vgg": "LPIPS (VGG-16)",
    "label_accuracy": "Label accuracy",
}


@dataclass(frozen=True)
class Bar:
    """Places on the bar between floor and ceiling, in percent of its width.

    Attributes:
        mean: Where the attack is.
        low: Where its interval begins.
        high: Where its interval ends.
    """

    mean: float
    low: float
    high: float


def render_page(summary: Mapping[str, Any], images: Mapping[str, np.ndarray] | None) -> str:
    """Returns the report as HTML.

    Args:
        summary: The audit's summary, see ``docs/run-folder.md``.
        images: ``target/<target>`` for private images and trial ids for reconstructions, to arrays
            ``(B, ch, H, W)`` in [0, 1]. None where the plan keeps images out of the report: it then
            says where they are.
    """
    rows = table_rows(summary)
    several = tables.several_attacks(rows)
    targets, strips = strips_of(summary, images) if images is not None else ([], [])
    shown = {name for strip in strips for name in strip.images if name is not None}
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            summary=summary,
            rows=[(row, bar_of(row.leakage)) for row in rows],
            several_attacks=several,
            attacks=svg_data_uri(draw_attacks(rows)) if several else None,
            white_box=any(
                "differentiated" in (trial.get("matching") or "") for trial in summary["trials"]
            ),
            seeds=len({trial["seed"] for trial in summary["trials"]}),
            figures=list(_figures(summary, rows)),
            with_images=images is not None,
            targets=targets,
            all_targets=len({trial["target"] for trial in summary["trials"]}),
            strips=strips,
            pictures={n: [*map(png_data_uri, images[n])] for n in shown} if images else {},
            columns=columns_of(summary),
            unit=unit_of(summary),
            metrics=_metrics_of(summary),
            paper=paper_rows(summary) if summary["plan"].get("paper_table") else [],
            paper_columns=COLUMNS,
            convention=CONVENTION,
            provenance=list(flattened(summary["provenance"])),
            nonfinite=sum(trial.get("nonfinite") or 0 for trial in summary["trials"]),
            evaluations=sum(trial.get("evaluations") or 0 for trial in summary["trials"]),
        )
    )


def bar_of(leakage: Estimate) -> Bar | None:
    """Returns where a leakage fraction lies on the bar, or None if it was not measured."""
    if leakage.mean is None:
        return None
    low = leakage.mean if leakage.low is None else leakage.low
    high = leakage.mean if leakage.high is None else leakage.high
    return Bar(*(round(_place(value), 2) for value in (leakage.mean, low, high)))


def flattened(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Yields the leaves of nested mappings and lists as dotted names and texts."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from flattened(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple):
        yield name, ", ".join(str(item) for item in value)
    else:
        yield name, tables.MISSING if value is None else str(value)


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": tables.number,
        "percent": tables.percent,
        "significant": tables.significant,
        "interval": tables.interval,
    }
    environment.globals |= {"estimate_of": tables.estimate_of}
    return environment


def _place(fraction: float) -> float:
    inside = min(max(fraction, _BAR_LOW), _BAR_HIGH)
    return 100 * (inside - _BAR_LOW) / (_BAR_HIGH - _BAR_LOW)


def _figures(
    summary: Mapping[str, Any], rows: Sequence[TableRow]
) -> Iterator[tuple[TableRow, str, list[str]]]:
    """Yields each row of the table with its curves and with how the attacker matched."""
    for row in rows:
        curves = curves_of(summary, row)
        if curves:
            yield row, svg_data_uri(draw_curves(curves)), _matching_of(summary, row)


def _matching_of(summary: Mapping[str, Any], row: TableRow) -> list[str]:
    """Returns how the attacker compared candidates with the updates, a sentence each."""
    trials = trials_of(summary, row.defense, ATTACK, row.by)
    sentences = [
        f"The attacker imitates, on the first {unit_of(summary)}: {trial['imitation']}."
        for trial in trials[:1]
        if trial.get("imitation")
    ]
    paths = dict.fromkeys(trial["matching"] for trial in trials if trial.get("matching"))
    sentences += [f"Candidates were compared by {path}." for path in paths]
    chunks = {
        (trial["chunk_size"], trial["population"])
        for trial in trials
        if trial.get("chunk_size", 0) < trial.get("population", 0)
    }
    if chunks:
        size, population = min(chunks)
        sentences.append(f"Memory had room for {size} of a population of {population} at once.")
    short = [trial["evaluations"] for trial in trials if trial.get("cut_short")]
    if short:
        sentences.append(
            f"{len(short)} of {len(trials)} searches ran out of time and were cut short, one of "
            f"them after {min(short)} evaluations."
        )
    return sentences


def _metrics_of(summary: Mapping[str, Any]) -> dict[str, str]:
    """Returns the metrics any group has, as names and headings."""
    found = {name for group in summary["groups"] for name in group.get("metrics") or {}}
    known = {name: heading for name, heading in _METRIC_NAMES.items() if name in found}
    return known | {name: name for name in sorted(found - set(known))}
