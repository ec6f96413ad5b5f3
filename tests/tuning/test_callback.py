import json
from types import SimpleNamespace

import numpy as np
import pytest

from engine.tuning.callback import HangCallback, ListenerCallback, LossCallback
from engine.tuning.fan_out import WORKER_LOSSES
from engine.tuning.worker import News

OUTCOME = {"result": {"loss": 1.0}, "arrays": {"images": np.zeros((1, 28, 28))}}
PROGRESS = {"evaluations": 10, "loss": 0.5}
DIED = "The actor died.\nIts id."
ERROR = {"error": "ValueError: no", "traceback": "where"}


class Listener:
    def __init__(self):
        self.heard = []

    def __getattr__(self, name):
        return lambda *what: self.heard.append((name, *what))


@pytest.fixture
def listener():
    return Listener()


@pytest.fixture
def callback(listener):
    return ListenerCallback(listener)


def report(callback, news, trial=None):
    result = {"news": News(news), "done": False}
    callback.on_trial_result(1, [], trial, result)
    return result


def test_a_listener_hears_of_each_trial_what_a_worker_reports(callback, listener):
    report(callback, {"a": PROGRESS, "b": OUTCOME, "c": ERROR})

    assert listener.heard == [
        ("progressed", "a", 10, 0.5),
        ("finished", "b", OUTCOME["result"], OUTCOME["arrays"]),
        ("failed", "c", "ValueError: no", "where"),
    ]


def test_a_listener_hears_of_progress_that_could_not_be_saved(callback, listener):
    report(callback, {"a": PROGRESS | {"unsaved": "No space left on device"}})

    assert listener.heard == [
        ("progressed", "a", 10, 0.5),
        ("unsaved", "a", "No space left on device"),
    ]


def test_an_outcome_is_heard_of_once(callback, listener):
    for _ in range(2):
        report(callback, {"b": OUTCOME})

    assert len(listener.heard) == 1


def test_a_result_of_tunes_own_is_passed_over(callback, listener):
    callback.on_trial_result(1, [], None, {"done": True})

    assert listener.heard == []


def test_nothing_of_the_news_stays_with_tune(callback):
    kept = report(callback, {"b": OUTCOME})

    # Tune keeps, prints and saves the last result; an empty one it would announce.
    assert json.loads(json.dumps(kept)) == kept
    assert kept["news"]


def test_news_is_not_written_out():
    assert len(repr(News({"b": OUTCOME}))) < 100


def test_a_lost_worker_fails_the_trials_that_are_not_over(callback, listener, lost):
    trial = lost(["a", "b"])
    report(callback, {"b": OUTCOME})

    callback.on_trial_start(1, [], trial)
    callback.on_trial_error(1, [], trial)

    assert listener.heard[1:] == [
        ("started", "a"),
        ("failed", "a", "worker lost: The actor died", DIED),
    ]


@pytest.fixture
def lost(tmp_path):
    """Makes trials that Tune gives up, after too many losses or before a worker was ready."""
    file = tmp_path / "error.txt"

    def make(trials, why=DIED, *, given_up=True):
        file.write_text(f"Failure # 1 (occurred at noon)\nfirst\nFailure # 2 (at one)\n{why}\n")
        return SimpleNamespace(
            config={"trials": trials},
            error_file=str(file),
            should_recover=lambda: not given_up,
        )

    return make


def test_a_trial_that_never_came_to_a_worker_is_run_again_so_many_times(callback, listener, lost):
    for _ in range(WORKER_LOSSES):
        callback.missed.clear()
        callback.on_trial_error(1, [], lost(["a"], given_up=False))
        assert callback.missed == {"a"}
    assert listener.heard == []

    callback.on_trial_error(1, [], lost(["a"], given_up=False))

    # Started as well: what is known of a trial but its end is told of then.
    failed = ("failed", "a", "worker lost: The actor died", DIED)
    assert listener.heard == [("started", "a"), failed]
    assert callback.over == {"a"}


class TuneTrial:
    PENDING = "PENDING"

    def __init__(self, status, worker=None):
        self.status = status
        self.temporary_state = SimpleNamespace(ray_actor=worker)


def test_a_worker_that_is_not_ready_for_its_next_trial_in_time_is_killed(monkeypatch):
    found, killed, now = [], [], iter(range(100))
    monkeypatch.setattr("engine.tuning.callback.time.monotonic", lambda: next(now))
    monkeypatch.setattr("ray.kill", killed.append)
    hangs = HangCallback(10, lambda trial, seconds: found.append((trial, seconds)))
    readied = TuneTrial("PENDING", worker=7)
    others = [TuneTrial("PENDING"), TuneTrial("RUNNING", worker=8), TuneTrial("ERROR", worker=9)]

    for _ in range(12):
        hangs.on_step_end(1, [readied, *others])

    assert found == [(readied, 11)]
    assert killed == [7]


def test_a_lost_worker_is_told_of_though_its_trials_go_on(callback, listener, lost):
    report(callback, {"b": OUTCOME})

    callback.on_trial_recover(1, [], lost(["a", "b"]))

    assert listener.heard[1:] == [("lost", "a", "worker lost: The actor died")]


def test_the_end_of_a_worker_that_hung_is_told_of_once(callback, listener, lost):
    callback.on_trial_start(1, [], lost(["a"]))
    callback.hung(lost(["a"]), 12.0)
    callback.on_trial_recover(1, [], lost(["a"]))

    assert [kind for kind, *_ in listener.heard] == ["started", "hung"]


def test_a_candidates_lost_worker_is_told_of_until_there_were_too_many(lost):
    heard = []
    callback = LossCallback(heard.append, lambda: heard.append("given up"))

    callback.on_trial_recover(1, [], lost([]))
    callback.on_trial_error(1, [], lost([]))
    callback.on_trial_error(1, [], lost([], given_up=False))

    assert heard == ["worker lost: The actor died", "given up"]


def test_what_may_help_is_said_of_workers_killed_for_want_of_memory(callback, listener, lost):
    callback.on_trial_error(1, [], lost(["a"], "killed by SIGKILL by OOM killer"))

    [_, (_, _, reason, _)] = listener.heard
    assert reason == (
        "worker lost: killed by SIGKILL by OOM killer, perhaps for want of memory; lower "
        "compute.workers or compute.searches_per_trial"
    )


def test_trials_given_up_after_hanging_are_said_to_have_hung(callback, listener, lost):
    report(callback, {"a": OUTCOME})
    for trial in (lost(["a", "b"]), lost(["c"])):
        callback.on_trial_start(1, [], trial)
    callback.hung(lost(["a", "b"]), 12.0)
    callback.on_trial_error(1, [], lost(["a", "b"]))
    callback.on_trial_error(1, [], lost(["c"]))

    reason = "worker lost after hanging; was it slow, raise compute.hang_seconds"
    assert listener.heard[3:] == [
        ("hung", "b", 12.0),
        ("failed", "b", reason, DIED),
        ("failed", "c", "worker lost: The actor died", DIED),
    ]


def test_trials_that_hung_once_and_fail_for_another_reason_are_not_said_to_have_hung(
    callback, listener, lost
):
    callback.on_trial_start(1, [], lost(["a"]))
    callback.hung(lost(["a"]), 12.0)
    callback.on_trial_start(1, [], lost(["a"]))
    callback.on_trial_error(1, [], lost(["a"]))

    assert listener.heard[-1] == ("failed", "a", "worker lost: The actor died", DIED)
