from engine.tuning.silence import LONGEST_LOOK_SECONDS, Silences


def listened(silences, start, seconds):
    """Looks once a second; returns by second what was found."""
    found = {now - start: silences.look(now) for now in range(start, start + seconds + 1)}
    return {now: stuck for now, stuck in found.items() if stuck}


def test_a_trial_that_is_silent_for_longer_than_allowed_is_found_once():
    silences = Silences(10)
    silences.heard("a")

    assert listened(silences, 0, 30) == {11: {"a": 11}}


def test_a_sign_of_life_starts_the_wait_anew():
    silences = Silences(10)
    silences.heard("a")
    listened(silences, 0, 9)
    silences.heard("a")

    assert listened(silences, 9, 10) == {}
    assert silences.look(20) == {"a": 11}


def test_a_trial_that_started_again_is_given_longer_each_time():
    silences = Silences(10)
    waited = []
    for start in (0, 100, 200):
        silences.look(start)
        silences.heard("a")
        waited += listened(silences, start, 40)

    assert waited == [11, 21, 31]


def test_a_trial_expected_again_has_waited_since_it_was_first():
    silences = Silences(10)
    silences.expect("a")
    listened(silences, 0, 6)
    silences.expect("a")

    assert listened(silences, 6, 10) == {5: {"a": 11}}


def test_a_trial_that_is_over_is_silent_for_good():
    silences = Silences(10)
    silences.heard("a")
    silences.left("a")

    assert listened(silences, 0, 30) == {}


def test_time_in_which_nobody_listened_does_not_count():
    silences = Silences(10)
    silences.heard("a")
    silences.look(0)

    assert silences.look(1_000_000) == {}
    assert listened(silences, 1_000_000, 30) == {11 - LONGEST_LOOK_SECONDS: {"a": 11}}


def test_without_a_limit_nothing_is_ever_found():
    silences = Silences(None)
    silences.heard("a")

    assert listened(silences, 0, 1000) == {}
