"""Who attacked: the attacks and searchers an audit compares, each by the name that tells it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

# What shows what an attack's figures are worth.
CONTROLS: Final = ("prior_only", "shuffled", "random_best", "oracle")
# The control that is an attack itself, on another client's update.
ATTACKING: Final = "shuffled"

Result = Mapping[str, Any]
Variant = tuple[str, str]  # An attack's name and its searcher.


def is_attack(result: Result) -> bool:
    """Returns whether a result, or a group of them, is an attack's and no control's."""
    return result["attack"] not in CONTROLS


def variant_of(result: Result) -> Variant | None:
    """Returns whose attack a result is or is the control of; None if it is any attack's control."""
    if is_attack(result):
        return result["attack"], result["searcher"]
    return (result["of"], result["searcher"]) if result["attack"] == ATTACKING else None


def with_names(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Returns results with ``by``: the shortest name that tells an attack from all others.

    That of its searcher where all have one name, its own where each has one searcher, else both.
    """
    variants = [variant_of(result) for result in results]
    names = _names(variant for variant in variants if variant)
    return [
        {**result, "by": names[variant] if variant else None}
        for result, variant in zip(results, variants, strict=True)
    ]


def _names(variants: Iterable[Variant]) -> dict[Variant, str]:
    known = list(dict.fromkeys(variants))
    attacks = {attack for attack, _ in known}
    if len(attacks) == 1:
        return {variant: variant[1] for variant in known}
    if len(attacks) == len(known):
        return {variant: variant[0] for variant in known}
    return {variant: " / ".join(variant) for variant in known}
