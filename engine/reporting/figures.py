"""Figures of the report: curves and attacks as SVG, single images and the montage as PNG.

matplotlib is imported when the first figure is drawn.
"""

import base64
import io
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import Image

from engine.reporting.figure_rows import Curve, Strip, columns_of, strips_of, unit_of
from engine.reporting.tables import TableRow, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, ATTACK, FLOOR, CEILING = "#56606d", "#2563c9", "#8a93a1", "#b4690e"

# matplotlib writes the colours above; a page in dark mode repaints them by this style.
_DARK: Final = {INK: "#aab4c0", ATTACK: "#7fb0ff", FLOOR: "#7d8794", CEILING: "#f0b35a"}

# Inches in the montage; an image of 32 pixels is drawn five times as large, without resampling.
_CELL, _SIDE, _CAPTION, _LABEL, _HEADER, _DPI = 0.86, 0.80, 0.17, 2.3, 0.34, 200
_PITCH = _SIDE + 0.03  # From one image of a client to its next.


# Panels of attacks side by side, one a defense.
_PANELS: Final = 5
_SVG: Final = {"svg.fonttype": "path", "svg.hashsalt": "leaktune", "font.size": 8.5}


def draw_curves(curves: Sequence[Curve]) -> str:
    """Returns an SVG text with one panel for each curve, side by side, that follows the theme."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(_SVG):
        figure = Figure(figsize=(4.4 * len(curves), 2.4), layout="constrained")
        panels = figure.subplots(1, len(curves), squeeze=False)[0]
        for axes, curve in zip(panels, curves, strict=True):
            _draw_curve(axes, curve)
        return _svg_text(figure)


def draw_attacks(rows: Sequence[TableRow]) -> str:
    """Returns an SVG text with one panel for each defense: every attack's PSNR and its interval.

    Args:
        rows: Of the report's table, those of one defense next to each other.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    defenses = list(dict.fromkeys(row.defense for row in rows))
    attacks = list(dict.fromkeys(row.by for row in rows if row.by))
    across = min(_PANELS, len(defenses))
    down = -(-len(defenses) // across)
    with rc_context(_SVG):
        size = (1.6 + 1.9 * across, (0.9 + 0.2 * len(attacks)) * down)
        figure = Figure(figsize=size, layout="constrained")
        panels = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True).flat
        for axes in panels[len(defenses) :]:
            axes.set_visible(False)
        for axes, defense in zip(panels[: len(defenses)], defenses, strict=True):
            _draw_attacks_on(axes, [row for row in rows if row.defense == defense], attacks)
            axes.set_title(textwrap.fill(defense, 28), color=INK, fontsize=8.5, parse_math=False)
        shown = [
            value
            for row in rows
            for value in (row.psnr.mean, row.prior_only, row.oracle)
            if value is not None
        ]
        if shown:  # Intervals may be so long that nothing else could be told apart beside them.
            margin = 0.2 * (max(shown) - min(shown)) or 1
            panels[0].set_xlim(min(shown) - margin, max(shown) + margin)
        panels[0].set_yticks(range(len(attacks)), attacks, parse_math=False)
        panels[0].invert_yaxis()
        return _svg_text(figure)


def svg_data_uri(svg: str) -> str:
    """Returns an SVG text as a ``data:`` address."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode("ascii")


def png_data_uri(image: np.ndarray) -> str:
    """Returns an image ``(ch, H, W)`` in [0, 1] as a ``data:`` address, pixel for pixel."""
    buffer = io.BytesIO()
    Image.fromarray(_pixels(image)).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def montage(summary: Mapping[str, Any], images: Mapping[str, np.ndarray]) -> bytes:
    """Returns a PNG of private images and their reconstructions; it is as private as they are.

    Rows are the originals, the controls of the first defense, the attack on each defense, and the
    oracle; columns are targets; a number under a client's images is their mean PSNR in dB.

    Args:
        summary: The audit's summary.
        images: ``target/<target>`` and trial ids to images ``(B, ch, H, W)`` in [0, 1].
    """
    from matplotlib.figure import Figure

    targets, strips = strips_of(summary, images, first_controls_only=True)
    columns, unit = columns_of(summary), unit_of(summary)
    rows = -(-summary["plan"]["client"]["images"] // columns)
    cell = _CELL + _PITCH * (columns - 1)
    row_height = _CELL + _PITCH * (rows - 1) + _CAPTION
    width = _LABEL + cell * len(targets) + 0.1
    height = _HEADER + row_height * len(strips) + 0.05
    figure = Figure(figsize=(width, height), facecolor="white")
    for column, target in enumerate(targets):
        _write(figure, _LABEL + cell * (column + 0.5), 0.22, f"{unit} {target}", ha="center")
    for index, strip in enumerate(strips):
        _draw_strip(
            figure,
            strip,
            images,
            top=_HEADER + index * row_height,
            grid=(rows, columns),
        )
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI)
    return buffer.getvalue()


def _draw_curve(axes: "Axes", curve: Curve) -> None:
    from matplotlib.ticker import LogLocator, NullLocator

    for run in curve.runs:
        axes.plot(*zip(*run, strict=True), color=ATTACK, linewidth=0.7, alpha=0.35)
    if curve.median:
        axes.plot(*zip(*curve.median, strict=True), color=ATTACK, linewidth=2.0)
    for value, name, colour in (
        (curve.floor, "floor", FLOOR),
        (curve.ceiling, "ceiling", CEILING),
    ):
        if value is not None:
            axes.axhline(value, color=colour, linewidth=1.2, linestyle=(0, (4, 2)))
            axes.annotate(
                name,
                (1, value),
                xycoords=("axes fraction", "data"),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                color=colour,
            )
    if curve.log:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("candidate evaluations", color=INK)
    axes.set_ylabel(curve.name, color=INK)
    _style(axes)


def _draw_attacks_on(axes: "Axes", rows: Sequence[TableRow], attacks: Sequence[str]) -> None:
    """Draws one defense: a dot and a line for each attack, between floor and ceiling."""
    for value, colour in ((rows[0].prior_only, FLOOR), (rows[0].oracle, CEILING)):
        if value is not None:
            axes.axvline(value, color=colour, linewidth=1.2, linestyle=(0, (4, 2)))
    for row in (row for row in rows if row.by):  # A defense whose attacks all failed has none.
        place, psnr = attacks.index(row.by), row.psnr
        if psnr.mean is not None:
            axes.plot(psnr.mean, place, "o", color=ATTACK, markersize=4)
        if psnr.low is not None and psnr.high is not None:
            axes.plot([psnr.low, psnr.high], [place, place], color=ATTACK, linewidth=1.4)
    axes.set_xlabel("PSNR, dB", color=INK)
    _style(axes)


def _style(axes: "Axes") -> None:
    axes.tick_params(which="both", colors=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)
    axes.set_facecolor("none")


def _svg_text(figure: "Figure") -> str:
    buffer = io.StringIO()
    metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=metadata)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]  # The document type would name an address on the network.
    repaint = "".join(
        f'[style*="{kind}: {light}"]{{{kind}:{dark} !important}}'
        for light, dark in _DARK.items()
        for kind in ("fill", "stroke")
    )
    style = f"<style>@media (prefers-color-scheme: dark){{{repaint}}}</style>"
    return re.sub(r"(<svg[^>]*>)", lambda found: found.group(1) + style, svg, count=1)


def _draw_strip(
    figure: "Figure",
    strip: Strip,
    images: Mapping[str, np.ndarray],
    *,
    top: float,
    grid: tuple[int, int],
) -> None:
    """Draws a strip below ``top``, each client's images in a grid of so many rows and columns."""
    below, beside = _PITCH * (grid[0] - 1), _PITCH * (grid[1] - 1)
    bold = "bold" if strip.kind in ("original", "attack") else "normal"
    name = textwrap.fill(strip.name, 30)
    middle, lines = top + (_CELL + below) / 2, name.count("\n")
    _write(figure, 0.12, middle - 0.05, name, va="bottom" if not lines else "center", weight=bold)
    _write(figure, 0.12, middle + 0.03 + 0.13 * lines, strip.note, va="top", size=6.5)
    for column, (found, psnr) in enumerate(zip(strip.images, strip.psnr, strict=True)):
        left = _LABEL + (_CELL + beside) * column + 0.03
        for place, image in enumerate(images[found] if found is not None else ()):
            row, within = divmod(place, grid[1])
            _draw_image(figure, image, left=left + _PITCH * within, top=top + _PITCH * row)
        if psnr is not None:
            text, centre = f"{number(psnr)} dB", left + (_SIDE + beside) / 2
            _write(figure, centre, top + _SIDE + below + 0.09, text, ha="center", size=6.5)


def _draw_image(figure: "Figure", image: np.ndarray, *, left: float, top: float) -> None:
    width, height = figure.get_size_inches()
    place = (left / width, 1 - (top + _SIDE) / height, _SIDE / width, _SIDE / height)
    axes = figure.add_axes(place)
    axes.imshow(_pixels(image), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.set_axis_off()


def _write(figure: "Figure", left: float, top: float, text: str, **style: Any) -> None:
    """Writes at a place in inches from the upper left corner; ``$`` and ``_`` mean themselves."""
    width, height = figure.get_size_inches()
    style = {"size": 8, "color": "#1f2733", "va": "center", **style}
    figure.text(left / width, 1 - top / height, text, parse_math=False, **style)


def _pixels(image: np.ndarray) -> np.ndarray:
    """Returns ``(ch, H, W)`` in [0, 1] as bytes ``(H, W, 3)``, or ``(H, W)`` for one channel."""
    levels: np.ndarray = np.rint(np.clip(np.nan_to_num(image), 0, 1) * 255).astype(np.uint8)
    return levels.squeeze(0) if len(levels) == 1 else levels.transpose(1, 2, 0)
