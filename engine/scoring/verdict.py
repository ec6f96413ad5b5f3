"""The verdict: what an audit's groups allow one to say, and no more."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

LEAKS: Final = "leaks"
NO_LEAK_SHOWN: Final = "no leak shown"
INCONCLUSIVE: Final = "inconclusive"
UNDEFENDED: Final = "none"
# The controls an attack must lie above, and the one that says how much there is to recover.
REFERENCES: Final = ("prior_only", "shuffled")
CEILING: Final = "oracle"

Group = Mapping[str, Any]


@dataclass(frozen=True)
class Finding:
    """What can be said of one defense.

    Attributes:
        defense: Its label.
        status: ``leaks``, ``no leak shown`` or ``inconclusive``.
        sentence: Its figures in words, and what they allow one to say.
    """

    defense: str
    status: str
    sentence: str


# Below this relative change, a defense did nothing to an update.
UNCHANGED: Final = 1e-6


def judge(groups: Sequence[Group], *, missing: int) -> dict[str, Any]:
    """Returns the verdict of an audit: a status, a sentence, and a finding for each defense.

    The attack has to be seen working before its failure can speak for a defense: unless, without
    a defense, both its leakage fraction and its identification rate lie above those of
    ``prior_only`` and ``shuffled`` with the intervals apart, everything is inconclusive.

    Args:
        groups: Groups as :func:`engine.scoring.groups.summarise_groups` returns them.
        missing: Trials without a result, failed or not run; with any, no defense is said to show
            no leak.
    """
    by_name = {(group["defense"], group["attack"]): group for group in groups}
    defenses = list(dict.fromkeys(group["defense"] for group in groups if group["attack"] == "ggl"))
    why_not = _why_undefended_attack_fails(by_name)
    findings = [_judge_defense(defense, by_name, why_not, missing) for defense in defenses]
    status, sentence = _overall(findings, why_not)
    return {
        "status": status,
        "sentence": sentence,
        "defenses": [asdict(finding) for finding in findings],
    }


def _overall(findings: Sequence[Finding], why_not: str | None) -> tuple[str, str]:
    if why_not:
        return INCONCLUSIVE, f"Inconclusive: {why_not} So nothing is said of any defense."
    defended = [finding for finding in findings if finding.defense != UNDEFENDED]
    if not defended:
        return LEAKS, "Without a defense, the update leaks: " + _lower(findings[0].sentence)
    leaking = [finding for finding in defended if finding.status == LEAKS]
    unclear = [finding for finding in defended if finding.status == INCONCLUSIVE]
    counted = f"{len(leaking)} of {len(defended)} defenses leak to this attack"
    if unclear:
        counted += f"; {len(unclear)} cannot be told from the controls with this many images"
    if leaking:
        return LEAKS, f"{counted}. Without a defense, {_lower(_of(findings, UNDEFENDED))}"
    if unclear:
        return INCONCLUSIVE, f"Inconclusive: {counted}."
    return NO_LEAK_SHOWN, (
        f"{counted}. That is no proof of absence: see what this audit cannot show."
    )


def _judge_defense(
    defense: str,
    groups: Mapping[tuple[str, str], Group],
    why_not: str | None,
    missing: int,
) -> Finding:
    attack = groups[defense, "ggl"]
    figures = _figures(attack)
    if why_not:
        return Finding(defense, INCONCLUSIVE, f"{figures} Not judged: see above.")
    controls = _controls(defense, groups)
    if len(controls) < len(REFERENCES):
        return Finding(defense, INCONCLUSIVE, f"{figures} Not judged: its controls are missing.")
    if _fraction_above(attack, controls) or _identified_above(attack, controls):
        return Finding(defense, LEAKS, figures)
    reference = groups[UNDEFENDED, "ggl"]["leakage_fraction"]["mean"]
    high = (attack["leakage_fraction"] or {}).get("high")
    if missing or high is None or high > reference / 2:
        return Finding(defense, INCONCLUSIVE, f"{figures} Not told apart from the controls.")
    return Finding(defense, NO_LEAK_SHOWN, f"{figures} No leak shown by this attack.")


def _why_undefended_attack_fails(groups: Mapping[tuple[str, str], Group]) -> str | None:
    """Returns why the undefended attack is not seen working, or None if it is."""
    attack = groups.get((UNDEFENDED, "ggl"))
    if attack is None:
        return "the plan has no undefended attack (defense: none) to compare with."
    controls = _controls(UNDEFENDED, groups)
    absent = [name for name in REFERENCES if (UNDEFENDED, name) not in groups]
    if not any(name == CEILING for _, name in groups):
        absent.append(CEILING)
    if absent:
        return f"without a defense, there is no result of: {', '.join(absent)}."
    if not _fraction_above(attack, controls):
        return "without a defense, the leakage fraction is not apart from the controls'."
    if not _identified_above(attack, controls):
        return "without a defense, the identification rate is not apart from the controls'."
    return None


def _controls(defense: str, groups: Mapping[tuple[str, str], Group]) -> list[Group]:
    return [groups[defense, name] for name in REFERENCES if (defense, name) in groups]


def _fraction_above(attack: Group, controls: Sequence[Group]) -> bool:
    """Whether the attack's leakage fraction lies above the controls', intervals apart."""
    low = (attack["leakage_fraction"] or {}).get("low")
    highs = [(group["leakage_fraction"] or {}).get("high") for group in controls]
    return low is not None and all(high is not None and low > high for high in highs)


def _identified_above(attack: Group, controls: Sequence[Group]) -> bool:
    """Whether the attack's identification rate lies above the controls', intervals apart."""
    low = attack["identification"]["low"]
    highs = [group["identification"]["high"] for group in controls]
    return low is not None and all(high is not None and low > high for high in highs)


def _figures(attack: Group) -> str:
    fraction, identified = attack["leakage_fraction"], attack["identification"]
    leaked = "The leakage fraction was not measured"
    if fraction and fraction["low"] is not None:
        leaked = f"{_range(fraction)} of what the generator can draw was recovered beyond the prior"
    change = ""
    if attack["defense"] != UNDEFENDED and attack["defense_change"] < UNCHANGED:
        change = " The defense did nothing to these updates."
    return (
        f"{leaked}, and {identified['top1']:.0%} of the images were identified among "
        f"{identified['among']}.{change}"
    )


def _range(fraction: Mapping[str, float]) -> str:
    return f"{fraction['mean']:.0%} ({fraction['low']:.0%} to {fraction['high']:.0%})"


def _of(findings: Sequence[Finding], defense: str) -> str:
    return next(finding.sentence for finding in findings if finding.defense == defense)


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]
