import signal
import threading

import pytest
from ray.tune.search.variant_generator import generate_variants

from engine.tuning.fan_out import fit, in_turn
from engine.tuning.scheduler import InOrder


class Carried(list):
    copies = 0

    def __deepcopy__(self, memo):
        Carried.copies += 1
        return self


def test_tune_samples_what_its_trials_carry_in_order_and_never_copies_the_queue():
    queue = [Carried([f"trial{n}"]) for n in range(100)]
    space = {"config": in_turn(queue)}

    sampled = [next(generate_variants(space))[1]["config"]["trials"] for _ in range(3)]

    assert sampled == [["trial0"], ["trial1"], ["trial2"]]
    assert Carried.copies <= 3


class Tuner:
    """Handles SIGINT as Ray Tune does, which comes so many times while it runs."""

    def __init__(self, interrupts):
        self.interrupts = interrupts

    def fit(self):
        found = signal.getsignal(signal.SIGINT)
        signal.signal(signal.SIGINT, lambda *_: signal.signal(signal.SIGINT, found))
        for _ in range(self.interrupts):
            signal.raise_signal(signal.SIGINT)
        return "results"


@pytest.fixture
def handler():
    """Python's own handler of SIGINT, whatever ran before."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield signal.default_int_handler
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_that_tune_had_is_raised_and_later_ones_are_not_swallowed(handler):
    assert fit(Tuner(0)) == "results"
    assert signal.getsignal(signal.SIGINT) is handler
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        fit(Tuner(1))
    assert signal.getsignal(signal.SIGINT) is handler


def test_the_tuner_of_another_thread_is_left_alone():
    results = []
    thread = threading.Thread(target=lambda: results.append(fit(Quiet())))
    thread.start()
    thread.join()

    assert results == ["results"]


class Quiet:
    def fit(self):
        return "results"


def test_the_next_trial_is_found_without_going_through_all_of_them():
    assert InOrder().choose_trial_to_run(None) is None
