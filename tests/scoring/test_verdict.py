import pytest

from engine.scoring.verdict import judge


def group(defense, attack, fraction, identified, *, change=0.5):
    mean, low, high = fraction
    return {
        "defense": defense,
        "attack": attack,
        "leakage_fraction": {"mean": mean, "low": low, "high": high},
        "identification": {
            "top1": identified[0],
            "low": identified[1],
            "high": identified[2],
            "among": 100,
        },
        "defense_change": change,
    }


LEAK, NOTHING, WIDE = (0.6, 0.5, 0.7), (0.01, -0.05, 0.06), (0.3, -0.1, 0.7)
SEEN, CHANCE = (0.9, 0.6, 1.0), (0.01, 0.0, 0.05)


def audit(**attacks):
    """Groups of an audit: for each defense its attack's fraction and identification."""
    groups = []
    for defense, (fraction, identified) in attacks.items():
        groups += [
            group(defense, "ggl", fraction, identified),
            group(defense, "prior_only", (0.0, 0.0, 0.0), CHANCE),
            group(defense, "shuffled", NOTHING, CHANCE),
        ]
    return [*groups, group("any", "oracle", LEAK, SEEN)]


def statuses(verdict):
    return {finding["defense"]: finding["status"] for finding in verdict["defenses"]}


def test_what_lies_above_the_controls_leaks_and_what_lies_low_shows_none():
    verdict = judge(
        audit(none=(LEAK, SEEN), weak=(LEAK, CHANCE), strong=(NOTHING, CHANCE)), missing=0
    )

    assert statuses(verdict) == {"none": "leaks", "weak": "leaks", "strong": "no leak shown"}
    assert verdict["status"] == "leaks"
    assert verdict["sentence"].startswith("1 of 2 defenses leak")


def test_identification_alone_is_a_leak():
    verdict = judge(audit(none=(LEAK, SEEN), seen=(NOTHING, SEEN)), missing=0)

    assert statuses(verdict)["seen"] == "leaks"


def test_an_interval_too_wide_to_tell_is_inconclusive():
    verdict = judge(audit(none=(LEAK, SEEN), unclear=(WIDE, CHANCE)), missing=0)

    assert statuses(verdict)["unclear"] == "inconclusive"
    assert verdict["status"] == "inconclusive"


def test_no_leak_anywhere_is_no_proof_of_absence():
    verdict = judge(audit(none=(LEAK, SEEN), strong=(NOTHING, CHANCE)), missing=0)

    assert verdict["status"] == "no leak shown"
    assert "no proof of absence" in verdict["sentence"]


@pytest.mark.parametrize(
    ("undefended", "reason"),
    [((NOTHING, SEEN), "leakage fraction"), ((LEAK, CHANCE), "identification rate")],
)
def test_an_attack_not_seen_working_speaks_for_no_defense(undefended, reason):
    verdict = judge(audit(none=undefended, strong=(NOTHING, CHANCE)), missing=0)

    assert verdict["status"] == "inconclusive"
    assert set(statuses(verdict).values()) == {"inconclusive"}
    assert reason in verdict["sentence"]


def test_an_audit_without_the_undefended_attack_is_inconclusive():
    verdict = judge(audit(strong=(NOTHING, CHANCE)), missing=0)

    assert verdict["status"] == "inconclusive"
    assert "none" in verdict["sentence"]


@pytest.mark.parametrize("missing", ["prior_only", "shuffled", "oracle"])
def test_an_audit_without_its_controls_is_inconclusive_and_names_the_missing_one(missing):
    groups = [g for g in audit(none=(LEAK, SEEN)) if g["attack"] != missing]

    verdict = judge(groups, missing=0)
    assert verdict["status"] == "inconclusive"
    assert verdict["sentence"].count(missing) == 1


def test_a_defense_whose_controls_are_missing_is_not_judged():
    groups = audit(none=(LEAK, SEEN), bare=(NOTHING, CHANCE))
    bare = [g for g in groups if g["defense"] != "bare" or g["attack"] == "ggl"]

    assert statuses(judge(bare, missing=0))["bare"] == "inconclusive"


def test_missing_trials_never_become_a_defense_that_shows_no_leak():
    verdict = judge(audit(none=(LEAK, SEEN), strong=(NOTHING, CHANCE)), missing=1)

    assert statuses(verdict)["strong"] == "inconclusive"


def test_a_single_target_has_no_interval_and_so_no_verdict():
    groups = audit(none=((0.6, None, None), SEEN))

    assert judge(groups, missing=0)["status"] == "inconclusive"


def test_no_trial_at_all_is_inconclusive():
    assert judge([], missing=3)["status"] == "inconclusive"


def test_a_defense_that_changed_nothing_is_said_to_have_done_nothing():
    groups = [
        *audit(none=(LEAK, SEEN)),
        group("clipping(max_norm=4)", "ggl", LEAK, SEEN, change=0.0),
        group("clipping(max_norm=4)", "prior_only", (0.0, 0.0, 0.0), CHANCE),
        group("clipping(max_norm=4)", "shuffled", NOTHING, CHANCE),
    ]

    sentences = {f["defense"]: f["sentence"] for f in judge(groups, missing=0)["defenses"]}
    assert "did nothing" in sentences["clipping(max_norm=4)"]
    assert "did nothing" not in sentences["none"]


def test_the_verdict_promises_nothing():
    texts = [
        judge(audit(none=(LEAK, SEEN), strong=(NOTHING, CHANCE)), missing=0),
        judge(audit(none=(NOTHING, CHANCE)), missing=0),
    ]

    for word in ("safe", "private", "anonymous", "guarantee", "secure", "protected"):
        assert word not in str(texts).lower()
