"""The paper's table: its metrics, in its convention, for every attack behind every defense.

Beside them is what the paper publishes for the same attack and defense, where it does.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from engine.reporting.published import published_psnr
from engine.reporting.tables import MISSING, defenses_of, in_markdown, number, significant
from engine.scoring.metrics import PAPER_PSNR, paper_mse
from engine.scoring.variants import is_attack

CONVENTION: Final = "images in [−1, 1], peak 1"
COLUMNS: Final = (
    "Defense",
    "Attack",
    "MSE-I",
    "PSNR, dB (95 %)",
    "Published PSNR: CelebA / ImageNet",
    "LPIPS-V",
    "LPIPS-A",
    "MSE-R",
    "Searches",
)
# The floor and the ceiling stand beside the attacks.
_REFERENCES: Final = {"prior_only": "floor: prior_only", "oracle": "ceiling: oracle"}


def paper_rows(summary: Mapping[str, Any]) -> list[Sequence[str]]:
    """Returns the cells of each row: by defense the floor, every attack, and the ceiling."""
    return [
        _cells(defense, name, group, published_psnr(summary["plan"]["name"], defense, name))
        for defense in defenses_of(summary)
        for name, group in _groups_of(summary, defense)
    ]


def paper_markdown(summary: Mapping[str, Any]) -> str:
    """Returns the table in Markdown, ending in a newline, with the convention it is in.

    Before it is its PSNR alone, with a row for each attack and a column for each defense.
    """
    short = _table(["Attack", *defenses_of(summary)], _psnr_rows(summary))
    return (
        f"In the convention of Li et al. (2022): {CONVENTION}.\n\n"
        "PSNR in dB, in parentheses its 95 % interval, in brackets what they publish.\n\n"
        f"{short}\n{_table(COLUMNS, paper_rows(summary))}"
    )


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(map(in_markdown, cells))} |\n" for cells in lines)


def _psnr_rows(summary: Mapping[str, Any]) -> list[Sequence[str]]:
    """Returns the PSNR of the floor, of every attack and of the ceiling behind each defense."""
    cells: dict[str, dict[str, str]] = {}
    for defense, name, _, psnr, published, *_ in paper_rows(summary):
        known = f"{psnr} [{published}]" if published != MISSING else psnr
        cells.setdefault(name, {})[defense] = known
    order = sorted(cells, key=lambda name: name == _REFERENCES["oracle"])
    return [
        [name, *(cells[name].get(defense, MISSING) for defense in defenses_of(summary))]
        for name in order
    ]


def _groups_of(summary: Mapping[str, Any], defense: str) -> list[tuple[str, Mapping[str, Any]]]:
    own = [group for group in summary["groups"] if group["defense"] in (defense, "any")]
    attacks = [(group["by"], group) for group in own if is_attack(group)]
    floor, ceiling = (
        [(name, group) for group in own if group["attack"] == control]
        for control, name in _REFERENCES.items()
    )
    return [*floor, *attacks, *ceiling]


def _cells(
    defense: str, name: str, group: Mapping[str, Any], published: str | None
) -> Sequence[str]:
    metrics = group["metrics"]

    def mean(metric: str) -> float | None:
        value: float | None = (metrics.get(metric) or {}).get("mean")
        return value

    mse, psnr = mean("mse"), metrics["psnr"]
    bounds = [psnr[bound] for bound in ("mean", "low", "high")]
    mean_psnr, low, high = (
        number(None if value is None else value + PAPER_PSNR, 2) for value in bounds
    )
    return (
        defense,
        name,
        significant(None if mse is None else paper_mse(mse)),
        f"{mean_psnr} ({low} to {high})" if MISSING not in (low, high) else mean_psnr,
        published or MISSING,
        significant(mean("lpips_vgg")),
        significant(mean("lpips")),
        significant(mean("mse_r")),
        str(group["n"]),
    )
