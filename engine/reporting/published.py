"""What Li et al. (2022) publish for the attacks and defenses of their tables and figures.

`Their paper <https://arxiv.org/abs/2203.15696>`_ has them for CelebA and ImageNet, with other
generators and target models: patterns can be compared with them, figures cannot.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

_NOISE, _CLIPPING, _SPARSIFICATION = (
    "gaussian_noise(std=0.1)",
    "clipping(max_norm=4)",
    "sparsification(percent=90)",
)
_SOTERIA: Final = "soteria(percent={percent}, version=ggl)"
_TABLE_3: Final = (_NOISE, _CLIPPING, _SPARSIFICATION, _SOTERIA.format(percent=80))
_FIGURE_7: Final = ("none", *(_SOTERIA.format(percent=percent) for percent in (10, 20, 40, 80)))


def _rows(defenses: Sequence[str], **by_attack: Sequence[str]) -> dict[tuple[str, str], str]:
    """Returns figures by defense and attack, of each attack one for each defense."""
    return {
        (defense, attack): psnr
        for attack, row in by_attack.items()
        for defense, psnr in zip(defenses, row, strict=True)
    }


# Mean PSNR in dB in the paper's convention, by plan, defense and attack: on CelebA, and behind a
# slash on ImageNet. Figure 7 is read off the drawing.
PUBLISHED: Final[Mapping[str, Mapping[tuple[str, str], str]]] = MappingProxyType(
    {
        "table1": {
            ("none", "d1_r1"): "15.68",
            ("none", "d1_r2"): "15.54",
            ("none", "d2_r1"): "15.35",
            ("none", "d2_r2"): "14.32",
        },
        "table2": {
            ("none", "adam"): "13.70 / 2.44",
            ("none", "bo"): "10.95 / 5.78",
            ("none", "cma"): "11.50 / 5.74",
        },
        "table3": _rows(
            _TABLE_3,
            dlg=("1.88 / 1.29", "6.78 / 4.19", "4.77 / 3.53", "4.41 / 2.23"),
            idlg=("2.03 / 1.34", "7.08 / 4.32", "4.81 / 3.61", "4.86 / 2.15"),
            inverting_gradients=("3.12 / 5.11", "12.65 / 8.44", "3.87 / 5.24", "4.63 / 4.34"),
            gradinversion=("2.41 / 1.81", "7.47 / 4.32", "5.29 / 3.56", "4.98 / 2.05"),
            ggl=("11.08 / 5.71", "11.19 / 6.52", "11.15 / 6.69", "10.14 / 6.05"),
        ),
        "figure7": _rows(
            _FIGURE_7,
            dlg=("15.34", "4.65", "4.55", "4.68", "4.66"),
            ggl=("12.00", "13.79", "9.90", "12.64", "9.41"),
        ),
    }
)


def published_psnr(plan: str, defense: str, attack: str) -> str | None:
    """Returns the paper's figure beside one of ours; None where it has none.

    Args:
        plan: Name of the plan, as in ``search_spaces/paper/``.
        defense: Label of the defense.
        attack: Name of the attack.
    """
    return PUBLISHED.get(plan, {}).get((defense, attack))
