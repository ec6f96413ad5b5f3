"""Workers and drivers killed at random moments: every trial ends as if nothing had happened."""

import json
import random
from collections import Counter

import pytest

from tests.with_ray.audits import SEARCHERS, plan_of, started

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

KILLS = 3  # Of workers, and of drivers, for each searcher.


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Returns what an audit that nothing happens to finds, by searcher."""
    found = {}

    def of(searcher):
        if searcher not in found:
            found[searcher] = started(tmp_path_factory.mktemp("whole"), plan_of(searcher)).finish()
        return found[searcher]

    return of


@pytest.mark.fault("driver killed", tries=KILLS)
@pytest.mark.parametrize("searcher", SEARCHERS)
def test_a_killed_driver_costs_no_more_than_the_generation_under_way(
    searcher, audits, whole, record_property
):
    """Killed with all its processes, as by a crash, or alone, so that its Ray is left over."""
    rng = random.Random(searcher)
    done, kills = [], Counter()
    audit = audits(searcher)
    while kills.total() < KILLS:
        how = ("searching", "starting", "alone")[kills.total() % 3]
        came = audit.wait_started() if how == "starting" else audit.wait_searching()
        audit.sleep(rng.uniform(0, 8 if how == "starting" else 2))
        if not came or audit.over():
            done.append(audit)
            assert audit.finish() == whole(searcher)
            audit = audits(searcher)
            continue
        audit.kill_driver(alone=how == "alone")
        kills[how] += 1
        audit.assert_kept_what_was_reported()
        audit.start()

    assert audit.finish() == whole(searcher)
    assert_nothing_was_repeated([*done, audit], kills, record_property)


@pytest.mark.fault("worker killed", tries=KILLS)
@pytest.mark.parametrize("searcher", SEARCHERS)
def test_a_killed_worker_costs_no_more_than_the_generation_under_way(
    searcher, audits, whole, record_property
):
    rng = random.Random(searcher)
    done, kills = [], Counter()
    audit = audits(searcher)
    while kills.total() < KILLS:
        audit.wait_searching()
        audit.sleep(rng.uniform(0, 2))
        if audit.over():
            done.append(audit)
            assert audit.finish() == whole(searcher)
            audit = audits(searcher)
        elif audit.kill_worker(rng):
            kills["worker"] += 1

    assert audit.finish() == whole(searcher)
    told = [event["error"] for one in [*done, audit] for event in one.events("trial_lost")]
    assert told
    assert all(error.startswith("worker lost: The actor died") for error in told)
    assert_nothing_was_repeated([*done, audit], kills, record_property)


def assert_nothing_was_repeated(audits, kills, record_property):
    """No generation on disk was evaluated again, and searches under way were hit."""
    repeated = sum((audit.repeated() for audit in audits), Counter())
    attempts = [attempts for audit in audits for attempts in audit.kept.values()]
    restored = [count for files in attempts for _, (count, _) in sorted(files.items())[1:]]
    figures = {
        "kills": dict(kills),
        "audits": len(audits),
        "evaluations restored": restored,
        "evaluations repeated": dict(repeated),
    }
    record_property("figures", json.dumps(figures))
    assert not repeated, figures
    assert restored, figures
