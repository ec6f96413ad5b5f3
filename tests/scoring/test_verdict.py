import pytest

from engine.scoring.verdict import judge


def group(defense, attack, fraction, identified, *, change=0.5, by="sepcma"):
    mean, low, high = fraction
    return {
        "defense": defense,
        "attack": attack,
        "by": by if attack in ("ggl", "shuffled") else None,
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


def compared(**searchers):
    """Groups of an audit by several searchers; each has a fraction and identification a defense."""
    groups = [group("any", "oracle", LEAK, SEEN)]
    for searcher, attacks in searchers.items():
        for defense, (fraction, identified) in attacks.items():
            groups += [
                group(defense, "ggl", fraction, identified, by=searcher),
                group(defense, "shuffled", NOTHING, CHANCE, by=searcher),
            ]
    defenses = dict.fromkeys(found["defense"] for found in groups if found["attack"] == "ggl")
    return groups + [group(name, "prior_only", (0.0, 0.0, 0.0), CHANCE) for name in defenses]


def by_searcher(verdict):
    return {(f["defense"], f["by"]): f["status"] for f in verdict["defenses"]}


WORKS, STRONGER = (LEAK, SEEN), ((0.8, 0.7, 0.9), SEEN)
FAILS = (NOTHING, CHANCE)


def test_of_several_searchers_the_worst_for_the_defender_counts():
    groups = compared(
        cma={"none": WORKS, "weak": FAILS, "strong": FAILS, "unclear": FAILS},
        sepcma={"none": STRONGER, "weak": WORKS, "strong": FAILS, "unclear": (WIDE, CHANCE)},
    )

    verdict = judge(groups, missing=0)

    found = by_searcher(verdict)
    assert (found["weak", "cma"], found["weak", "sepcma"]) == ("no leak shown", "leaks")
    assert (found["unclear", "cma"], found["unclear", "sepcma"]) == (
        "no leak shown",
        "inconclusive",
    )
    assert verdict["status"] == "leaks"
    assert verdict["sentence"].startswith(
        "1 of 3 defenses leak to cma or sepcma; 1 cannot be told from the controls with this many "
        "images. Without a defense, by sepcma, 80% (70% to 90%)"
    )


def test_no_leak_is_shown_only_where_every_searcher_seen_working_shows_none():
    both = {"none": WORKS, "strong": FAILS}
    doubtful = both | {"strong": (WIDE, CHANCE)}

    agreed, doubted = (
        judge(compared(cma=both, sepcma=other), missing=0) for other in (both, doubtful)
    )

    assert agreed["status"] == "no leak shown"
    assert doubted["status"] == "inconclusive"


def test_a_searcher_not_seen_working_says_nothing_for_or_against_a_defense():
    groups = compared(
        cma={"none": WORKS, "strong": FAILS},
        random={"none": FAILS, "strong": WORKS},
    )

    verdict = judge(groups, missing=0)

    assert by_searcher(verdict) == {
        ("none", "cma"): "leaks",
        ("strong", "cma"): "no leak shown",
        ("none", "random"): "inconclusive",
        ("strong", "random"): "inconclusive",
    }
    assert verdict["status"] == "no leak shown"
    assert verdict["sentence"].startswith("0 of 1 defenses leak to cma. ")
    assert verdict["sentence"].endswith(
        "random says nothing: without a defense, the leakage fraction is not apart from the "
        "controls'."
    )


def test_an_audit_none_of_whose_searchers_is_seen_working_is_inconclusive_and_says_why_of_each():
    verdict = judge(
        compared(cma={"none": FAILS, "strong": FAILS}, random={"none": (LEAK, CHANCE)}), missing=0
    )

    assert verdict["status"] == "inconclusive"
    assert "cma says nothing: without a defense, the leakage fraction" in verdict["sentence"]
    assert "random says nothing: without a defense, the identification" in verdict["sentence"]


def test_a_reason_that_holds_for_all_searchers_is_given_once():
    verdict = judge(compared(cma={"strong": WORKS}, random={"strong": WORKS}), missing=0)

    assert verdict["sentence"] == (
        "Inconclusive: there is no undefended attack (defense: none) to compare with. "
        "So nothing is said of any defense."
    )


def test_a_searchers_attack_is_held_against_its_own_shuffled_control():
    groups = compared(cma={"none": WORKS}, sepcma={"none": WORKS})
    own = next(g for g in groups if (g["attack"], g["by"]) == ("shuffled", "sepcma"))
    groups[groups.index(own)] = group("none", "shuffled", LEAK, SEEN, by="sepcma")

    verdict = judge(groups, missing=0)

    assert by_searcher(verdict) == {("none", "cma"): "leaks", ("none", "sepcma"): "inconclusive"}
    assert verdict["sentence"].startswith("Without a defense, the update leaks: by cma, 60%")


def test_an_audit_whose_plan_leaves_out_a_verdicts_controls_is_not_judged():
    groups = [g for g in audit(none=(LEAK, SEEN), weak=(LEAK, SEEN)) if g["attack"] != "shuffled"]

    partial = judge(groups, missing=0, controls=("prior_only", "oracle"))
    unasked = judge(groups, missing=0, controls=("prior_only", "oracle"), asked=False)

    assert (partial["status"], partial["asked"]) == ("inconclusive", True)
    assert "the plan leaves out shuffled, without which nothing is judged" in partial["sentence"]
    assert (unasked["status"], unasked["asked"]) == ("inconclusive", False)
    assert "the plan asks for no verdict" in unasked["sentence"]
