import pytest

from engine.errors import PlanError
from engine.registry import Registry, nearest


@pytest.fixture
def registry():
    registry = Registry("dish")

    @registry.register("soup")
    class Soup:
        """Something hot.

        And more about it.
        """

        def __init__(self, *, salt, pepper=0):
            self.salt, self.pepper = salt, pepper

    @registry.register("bread")
    def bread():
        return "bread"

    return registry


def test_things_are_made_from_their_settings(registry):
    soup = registry.make("soup", salt=2)

    assert (soup.salt, soup.pepper) == (2, 0)
    assert registry.make("bread") == "bread"


def test_names_are_sorted(registry):
    assert registry.names() == ("bread", "soup")


def test_summaries_are_the_first_lines_of_docstrings(registry):
    assert registry.summaries() == {"bread": "", "soup": "Something hot."}


def test_an_unknown_name_is_refused_with_the_known_and_the_nearest(registry):
    message = r"Unknown dish 'soop'; expected one of: bread, soup\. Did you mean 'soup'\?"

    with pytest.raises(PlanError, match=message):
        registry.make("soop")


def test_an_unknown_setting_is_refused_with_the_nearest(registry):
    message = r"Unknown setting 'peper' of the dish 'soup'; it takes: salt, pepper\. Did you mean"

    with pytest.raises(PlanError, match=message):
        registry.make("soup", salt=1, peper=2)


def test_a_setting_of_what_takes_none_is_refused(registry):
    with pytest.raises(PlanError, match="it takes: none"):
        registry.make("bread", salt=1)


def test_a_missing_setting_is_named(registry):
    with pytest.raises(PlanError, match="The dish 'soup' needs a value for: salt"):
        registry.make("soup")


def test_a_name_is_registered_once(registry):
    with pytest.raises(PlanError, match="The dish 'soup' is already registered"):
        registry.register("soup")(dict)


def test_get_returns_the_factory_itself(registry):
    assert registry.get("bread")() == "bread"


def test_a_name_like_no_other_has_no_nearest():
    assert nearest("xyz", ["soup", "bread"]) == ""
