import pytest

from search_spaces.attack_settings import check_axes


def test_settings_of_a_search_may_be_tuned_and_those_within_them():
    check_axes({"attack.searcher": ["sepcma", "random"], "attack.restarts": [1]})
    check_axes({"attack.searcher_settings.population": [8, 16], "attack.space_settings": [{}]})


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({}, "Expected a setting to tune, got none"),
        ({"attack.distance": ["cosine"]}, "says how the loss is searched.*'attack.distance'"),
        ({"attack.budget": [10, 20]}, "got 'attack.budget'.*cannot choose"),
        ({"attack.searchers": [["sepcma"]]}, "got 'attack.searchers'"),
        ({"defenses": [["none"]]}, "got 'defenses'"),
        ({"attack.restarts": []}, r"values of attack.restarts, each once, got \[\]"),
        ({"attack.restarts": [1, 2, 1]}, r"each once, got \[1, 2, 1\]"),
    ],
)
def test_what_the_loss_cannot_choose_is_refused(axes, message):
    with pytest.raises(ValueError, match=message):
        check_axes(axes)
