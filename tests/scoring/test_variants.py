from engine.scoring.variants import is_attack, variant_of, with_names


def result(attack, searcher=None, of=None):
    return {"attack": attack, "searcher": searcher, "of": of}


def names(*results):
    return [named["by"] for named in with_names(results)]


def test_searchers_of_one_attack_are_told_apart_by_their_names():
    found = names(result("ggl", "cma"), result("ggl", "sepcma"), result("shuffled", "cma", "ggl"))

    assert found == ["cma", "sepcma", "cma"]


def test_attacks_of_one_searcher_each_are_told_apart_by_theirs():
    found = names(
        result("dlg", "lbfgs"), result("idlg", "lbfgs"), result("shuffled", "lbfgs", "idlg")
    )

    assert found == ["dlg", "idlg", "idlg"]


def test_where_neither_suffices_both_are_named():
    found = names(result("ggl", "cma"), result("ggl", "sepcma"), result("dlg", "lbfgs"))

    assert found == ["ggl / cma", "ggl / sepcma", "dlg / lbfgs"]


def test_controls_of_every_attack_belong_to_none():
    controls = [result("prior_only"), result("random_best", "random"), result("oracle")]

    assert names(result("ggl", "cma"), *controls) == ["cma", None, None, None]
    assert [variant_of(control) for control in controls] == [None] * 3
    assert not any(map(is_attack, controls))
    assert not is_attack(result("shuffled", "cma", "ggl"))


def test_an_attack_by_itself_has_the_name_of_its_searcher():
    assert names(result("dlg", "lbfgs")) == ["lbfgs"]
