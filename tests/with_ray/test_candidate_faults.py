"""What stops while every candidate is a Ray Tune trial: the search goes on, and no loss is lost."""

import signal
import time

import pytest

from tests.with_ray.audits import kill, plan_of, started

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SEARCHER = "nevergrad:DiagonalCMA"  # One whose proposals follow from every loss told.
BUDGET = 120
KILLS = 3
LONG_SECONDS = 20  # More than a worker's start takes.


@pytest.fixture(scope="module")
def audits(tmp_path_factory):
    """Starts audits of a few searches by their ``compute``, and ends what is left of them."""
    made = []

    def start(*, targets=1, **compute):
        plan = plan_of(SEARCHER) | {"targets": targets}
        plan["attack"] |= {"budget": BUDGET}
        plan["compute"] |= {"fan_out": "candidates", "searches_per_trial": 1} | compute
        made.append(started(tmp_path_factory.mktemp("audit"), plan))
        return made[-1]

    yield start
    for audit in made:
        audit.clear_away()


@pytest.fixture(scope="module")
def whole(audits):
    """Returns what an audit that nothing happens to finds."""
    return audits().finish()


def losses_in(audit):
    """Returns the lines of the search's log: a head, then one a loss."""
    logs = audit.run.glob("trials/*/candidates.jsonl") if audit.run else []
    return [line for log in logs for line in log.read_text().splitlines()]


def wait_for_losses(audit, count):
    assert audit.wait(lambda: len(losses_in(audit)) > count), audit.log()


@pytest.mark.fault("a candidate's worker hangs")
def test_a_stopped_workers_candidate_is_another_workers(audits, whole):
    audit = audits(hang_seconds=LONG_SECONDS)
    wait_for_losses(audit, BUDGET // 4)

    audit.suspend_worker()

    assert audit.finish() == whole
    [hung] = audit.events("trial_hung")
    assert hung["seconds"] > LONG_SECONDS


@pytest.mark.fault("a candidate's worker killed", tries=KILLS)
def test_a_killed_workers_candidate_is_another_workers(audits, whole):
    """Killed with a candidate, and while Tune makes it ready for the next."""
    audit = audits()
    for kills in range(1, KILLS + 1):
        wait_for_losses(audit, kills * BUDGET // (KILLS + 1))
        kill(audit.workers()[:1])

    assert audit.finish() == whole


@pytest.mark.fault("driver of candidates killed")
def test_a_killed_driver_loses_no_loss(audits, whole, record_property):
    audit = audits()
    wait_for_losses(audit, BUDGET // 2)
    audit.kill_driver(alone=False)
    before = losses_in(audit)

    started = time.monotonic()
    audit.start()
    wait_for_losses(audit, len(before))
    record_property("seconds", time.monotonic() - started)

    assert audit.finish() == whole
    after = losses_in(audit)
    assert after[: len(before) - 1] == before[:-1]  # The last may have been cut off.


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_ends_the_second_search_too(sent, code, audits):
    """Ray Tune, which has run once by then, leaves its handler of signals behind."""
    audit = audits(targets=2)
    assert audit.wait(lambda: audit.events("trial_finished")), audit.log()
    wait_for_losses(audit, BUDGET + 30)

    audit.process.send_signal(sent)

    audit.wait(lambda: False)
    assert audit.process.returncode == code, audit.log()
    assert len(audit.events("trial_finished")) == 1
    assert audit.events("audit_interrupted")
