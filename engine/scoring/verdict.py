"""The verdict: what an audit's groups allow one to say, and no more."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Final

from engine.scoring.variants import is_attack

LEAKS: Final = "leaks"
NO_LEAK_SHOWN: Final = "no leak shown"
INCONCLUSIVE: Final = "inconclusive"
UNDEFENDED: Final = "none"
# What the attack that is judged is called among its controls.
ATTACK: Final = "attack"
# The controls an attack must lie above, and the one that says how much there is to recover.
REFERENCES: Final = ("prior_only", "shuffled")
CEILING: Final = "oracle"
# The worst for the defender first.
SEVERITY: Final = (LEAKS, INCONCLUSIVE, NO_LEAK_SHOWN)

Group = Mapping[str, Any]


@dataclass(frozen=True)
class Finding:
    """What can be said of one defense against one attack.

    Attributes:
        defense: Its label.
        by: What attacked it.
        status: ``leaks``, ``no leak shown`` or ``inconclusive``.
        sentence: Its figures in words, and what they allow one to say.
    """

    defense: str
    by: str
    status: str
    sentence: str


# Below this relative change, a defense did nothing to an update.
UNCHANGED: Final = 1e-6


def judge(
    groups: Sequence[Group],
    *,
    missing: int,
    controls: Sequence[str] = (*REFERENCES, CEILING),
    asked: bool = True,
) -> dict[str, Any]:
    """Returns the verdict of an audit: a status, a sentence, and what is found of each defense.

    The attack has to be seen working before its failure can speak for a defense: unless, without
    a defense, both its leakage fraction and its identification rate lie above those of
    ``prior_only`` and ``shuffled`` with the intervals apart, everything is inconclusive.

    Of several attacks, each is judged by itself. Those that are not seen working say nothing; of
    what the others say of a defense, the worst for the defender counts.

    Args:
        groups: Groups as :func:`engine.scoring.groups.summarise_groups` returns them.
        missing: Trials without a result, failed or not run; with any, no defense is said to show
            no leak.
        controls: Those the audit was to run; without all that a verdict needs nothing is judged.
        asked: Whether the plan asks for a verdict.
    """
    left_out = [name for name in (*REFERENCES, CEILING) if name not in controls]
    reason = None if asked else "the plan asks for no verdict."
    if asked and left_out:
        reason = f"the plan leaves out {', '.join(left_out)}, without which nothing is judged."
    attacks = [group for group in groups if is_attack(group)]
    names = list(dict.fromkeys(attack["by"] for attack in attacks)) or [""]
    known = {name: _groups_of(name, groups) for name in names}
    why_not = {name: reason or _why_undefended_attack_fails(found) for name, found in known.items()}
    findings = [
        _judge_defense(attack, known[attack["by"]], why_not[attack["by"]], missing)
        for attack in attacks
    ]
    status, sentence = _overall(findings, why_not, _strongest(attacks, why_not))
    return {
        "status": status,
        "sentence": sentence,
        "asked": asked,
        "defenses": [asdict(finding) for finding in findings],
    }


def _groups_of(by: str, groups: Sequence[Group]) -> dict[tuple[str, str], Group]:
    """Returns the groups that an attack is judged by, by defense and control, or ``ATTACK``."""
    return {
        (group["defense"], ATTACK if is_attack(group) else group["attack"]): group
        for group in groups
        if group["by"] in (None, by)
    }


def _strongest(attacks: Sequence[Group], why_not: Mapping[str, str | None]) -> Group | None:
    """Returns the undefended attack that recovers most, of those seen working."""
    working = [
        attack
        for attack in attacks
        if attack["defense"] == UNDEFENDED and why_not[attack["by"]] is None
    ]
    return max(working, key=lambda attack: attack["leakage_fraction"]["mean"], default=None)


def _overall(
    findings: Sequence[Finding], why_not: Mapping[str, str | None], strongest: Group | None
) -> tuple[str, str]:
    silent = _silent(why_not)
    if strongest is None:
        return INCONCLUSIVE, f"Inconclusive: {silent} So nothing is said of any defense."
    working = [name for name, why in why_not.items() if why is None]
    several = len(why_not) > 1
    status, sentence = _conclude(
        _worst(finding for finding in findings if finding.by in working),
        attackers=_either(working) if several else "this attack",
        undefended=(f"by {strongest['by']}, " if several else "") + _lower(_figures(strongest)),
    )
    return status, f"{sentence} {silent}".rstrip()


def _conclude(statuses: Mapping[str, str], *, attackers: str, undefended: str) -> tuple[str, str]:
    """Returns what the statuses of all defenses but none come to, and the sentence for it."""
    if not statuses:
        return LEAKS, f"Without a defense, the update leaks: {undefended}"
    counts = Counter(statuses.values())
    counted = f"{counts[LEAKS]} of {len(statuses)} defenses leak to {attackers}"
    if counts[INCONCLUSIVE]:
        counted += (
            f"; {counts[INCONCLUSIVE]} cannot be told from the controls with this many images"
        )
    if counts[LEAKS]:
        return LEAKS, f"{counted}. Without a defense, {undefended}"
    if counts[INCONCLUSIVE]:
        return INCONCLUSIVE, f"Inconclusive: {counted}."
    return NO_LEAK_SHOWN, (
        f"{counted}. That is no proof of absence: see what this audit cannot show."
    )


def _worst(findings: Iterable[Finding]) -> dict[str, str]:
    """Returns for each defense the status that is worst for the defender."""
    statuses: dict[str, str] = {}
    for finding in findings:
        if finding.defense != UNDEFENDED:
            before = statuses.get(finding.defense, NO_LEAK_SHOWN)
            statuses[finding.defense] = min(before, finding.status, key=SEVERITY.index)
    return statuses


def _silent(why_not: Mapping[str, str | None]) -> str:
    """Returns which attacks say nothing and why; empty if all were seen working."""
    reasons = set(why_not.values())
    if len(reasons) == 1:
        return reasons.pop() or ""
    return " ".join(f"{name} says nothing: {why}" for name, why in why_not.items() if why)


def _judge_defense(
    attack: Group,
    groups: Mapping[tuple[str, str], Group],
    why_not: str | None,
    missing: int,
) -> Finding:
    finding = partial(Finding, attack["defense"], attack["by"])
    figures = _figures(attack)
    if why_not:
        return finding(INCONCLUSIVE, f"{figures} Not judged: see above.")
    controls = _controls(attack["defense"], groups)
    if len(controls) < len(REFERENCES):
        return finding(INCONCLUSIVE, f"{figures} Not judged: its controls are missing.")
    if _fraction_above(attack, controls) or _identified_above(attack, controls):
        return finding(LEAKS, figures)
    reference = groups[UNDEFENDED, ATTACK]["leakage_fraction"]["mean"]
    high = (attack["leakage_fraction"] or {}).get("high")
    if missing or high is None or high > reference / 2:
        return finding(INCONCLUSIVE, f"{figures} Not told apart from the controls.")
    return finding(NO_LEAK_SHOWN, f"{figures} No leak shown by this attack.")


def _why_undefended_attack_fails(groups: Mapping[tuple[str, str], Group]) -> str | None:
    """Returns why the undefended attack is not seen working, or None if it is."""
    attack = groups.get((UNDEFENDED, ATTACK))
    if attack is None:
        return "there is no undefended attack (defense: none) to compare with."
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


def _either(names: Sequence[str]) -> str:
    """Returns ``a, b or c``."""
    return " or ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]
