import pytest

from engine.tracking.changes import EventReader, cut, to_key


def test_an_event_of_an_unknown_kind_is_left_out():
    assert EventReader().read([{"time": 1.0, "kind": "cache_warmed"}]) == {}


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("leakage_fraction/none", "leakage_fraction/none"),
        ("psnr/clipping(max_norm=1.0) + none", "psnr/clipping_max_norm_1.0_ _ none"),
        ("../x//y/", "x/y"),
        ("", "_"),
    ],
)
def test_names_become_keys_that_mlflow_accepts(name, key):
    assert to_key(name) == key


def test_a_long_text_is_cut_to_the_limit_and_shows_it():
    assert cut("12345", 5) == "12345"
    assert cut("123456", 5) == "1234…"
