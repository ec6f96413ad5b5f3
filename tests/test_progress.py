import io
from types import MappingProxyType

import pytest
from rich.console import Console

from engine import progress
from engine.progress import ProgressView

TRIALS = {"a": "none", "b": "none", "c": "clipping(max_norm=4)"}


@pytest.fixture
def clock(monkeypatch):
    """A clock the test sets."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def view_on(terminal, done=(), restored=MappingProxyType({})):
    console = Console(file=io.StringIO(), force_terminal=terminal, width=100)
    return ProgressView(console, TRIALS, done, restored), console.file


def record(attack="ggl"):
    return {"attack": attack, "evaluations": 100, "metrics": {"psnr": 17.26}}


def test_without_a_terminal_there_is_one_plain_line_every_ten_seconds(clock):
    view, file = view_on(False)

    with view:
        for clock[0] in (1.0, 5.0, 9.9):
            view.progressed("a", 10)
        assert len(file.getvalue().splitlines()) == 1
        clock[0] = 10.0
        view.progressed("a", 50)

    lines = file.getvalue().splitlines()
    assert lines[1] == "0/3 trials done, 5 evaluations/s, 10 s gone, ? left"
    assert "\x1b" not in file.getvalue()


def test_evaluations_of_an_interrupted_search_do_not_count_as_made(clock):
    view, file = view_on(False, restored={"a": 700})

    with view:
        clock[0] = 10.0
        view.progressed("a", 300)  # It is told what it had found.
        clock[0] = 20.0
        view.progressed("a", 800)

    lines = file.getvalue().splitlines()
    assert lines[1].startswith("0/3 trials done, 0 evaluations/s, ")
    assert lines[2].startswith("0/3 trials done, 5 evaluations/s, ")


def test_the_time_left_follows_from_the_trials_of_this_run_alone(clock):
    view, file = view_on(False, done=["a"])

    with view:
        clock[0] = 20.0
        view.finished("b", record())

    assert "2/3 trials done, 5 evaluations/s, 20 s gone, 20 s left" in file.getvalue()


def test_the_first_failure_is_shown_in_full_and_later_ones_by_a_line(clock):
    view, file = view_on(False)

    with view:
        view.failed("a", "ValueError: no", "Traceback 1", first=True)
        view.failed("b", "ValueError: no", "Traceback 2", first=False)

    shown = file.getvalue()
    assert "Traceback 1" in shown
    assert "Traceback 2" not in shown
    assert "Trial b failed: ValueError: no" in shown
    assert "2 FAILED" in shown


def test_a_terminal_shows_a_table_by_defense(clock):
    view, file = view_on(True)

    with view:
        view.finished("a", record())
        view.finished("b", record("shuffled"))

    shown = file.getvalue()
    assert "clipping(max_norm=4)" in shown
    assert "17.3 dB" in shown
