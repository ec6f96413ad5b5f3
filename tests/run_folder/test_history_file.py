"""What is appended to a history comes back, whatever a crash, a twin or a full disk does to it."""

import itertools
import resource
import signal
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.attacks import History, Progress
from engine.run_folder.history_file import HistoryKeeper, load_history, remove_histories

NOTHING = History(np.empty(0, dtype=np.float32))
SIZES = (5, 5, 3)
EVALUATIONS = sum(SIZES)
DAMAGED = pytest.mark.fault("history cut off or damaged", tries=settings().max_examples)


def losses_of(count):
    return np.arange(count, dtype=np.float32) / 7


def details_of(start, stop, width=4):
    return np.arange(start * width, stop * width, dtype=np.float32).reshape(-1, width)


def generations(*, known=0, detailed=2, sizes=SIZES):
    """The progress of a search, of whose generations the first ``detailed`` had details."""
    stops = list(itertools.accumulate(sizes))
    losses = losses_of(stops[-1])
    for number, (size, stop) in enumerate(zip(sizes, stops, strict=True)):
        details = details_of(stop - size, stop) if number < detailed else None
        yield Progress(stop, 0.0, None, losses[:stop], details, known=number < known)


def keep(folder, *, restored=NOTHING, spec="spec", **arguments):
    keeper = HistoryKeeper(folder, spec, restored)
    return [keeper.keep(progress) for progress in generations(**arguments)]


def assert_holds(history, evaluations, detailed):
    np.testing.assert_array_equal(history.losses, losses_of(EVALUATIONS)[:evaluations])
    assert history.losses.dtype == history.details.dtype == np.float32
    assert len(history.details) == detailed
    if detailed:
        np.testing.assert_array_equal(history.details, details_of(0, detailed))


def test_what_was_evaluated_is_on_disk_after_every_generation(tmp_path):
    keeper = HistoryKeeper(tmp_path, "spec", NOTHING)

    for progress, detailed in zip(generations(), (5, 10, 10), strict=True):
        assert keeper.keep(progress) is None
        assert_holds(load_history(tmp_path, "spec"), progress.evaluations, detailed)


def test_a_search_without_sketches_has_none(tmp_path):
    keep(tmp_path, detailed=0)

    assert_holds(load_history(tmp_path, "spec"), EVALUATIONS, 0)


def test_losses_that_are_not_finite_come_back_to_the_bit(tmp_path):
    losses = np.array([np.nan, np.inf, -np.inf, 1e-45], dtype=np.float32)
    HistoryKeeper(tmp_path, "spec", NOTHING).keep(Progress(4, 0.0, None, losses))

    assert load_history(tmp_path, "spec").losses.tobytes() == losses.tobytes()


def test_a_trial_that_never_began_has_no_history(tmp_path):
    assert_holds(load_history(tmp_path / "nowhere", "spec"), 0, 0)


def test_a_history_of_another_spec_is_left_aside(tmp_path):
    keep(tmp_path)
    keep(tmp_path, spec="other", sizes=SIZES[:1])

    assert_holds(load_history(tmp_path, "spec"), EVALUATIONS, 10)
    assert_holds(load_history(tmp_path, "other"), 5, 5)
    assert_holds(load_history(tmp_path, "spe"), 0, 0)


def test_a_resumed_attempt_has_a_file_of_its_own_that_is_whole_by_itself(tmp_path):
    keep(tmp_path, sizes=SIZES[:2])
    known = load_history(tmp_path, "spec")

    keep(tmp_path, restored=known, known=2)

    first, second = sorted(tmp_path.iterdir())
    first.unlink()
    assert second.name == "history-002.bin"
    assert_holds(load_history(tmp_path, "spec"), EVALUATIONS, 10)


def test_a_history_restored_as_a_whole_is_not_written_again(tmp_path):
    keep(tmp_path)

    keep(tmp_path, restored=load_history(tmp_path, "spec"), known=3)

    assert len(list(tmp_path.iterdir())) == 1


def test_a_worker_given_up_but_alive_does_no_harm(tmp_path):
    """Both go on from the same history, in turns, and one of them is then ahead."""
    keep(tmp_path, sizes=SIZES[:1])
    known = load_history(tmp_path, "spec")
    stale, new = (HistoryKeeper(tmp_path, "spec", known) for _ in range(2))

    for keeper in (stale, new):
        for progress in list(generations(known=1))[:2]:
            keeper.keep(progress)
    stale.keep(list(generations(known=1))[2])

    assert len(list(tmp_path.iterdir())) == 3
    assert_holds(load_history(tmp_path, "spec"), EVALUATIONS, 10)


def test_a_stale_worker_leaves_nothing_in_a_trial_that_is_finished(tmp_path):
    stale = HistoryKeeper(tmp_path, "spec", NOTHING)
    first, second, _ = generations()
    stale.keep(first)

    remove_histories(tmp_path)

    assert "No such file" in stale.keep(second)
    assert list(tmp_path.iterdir()) == []


@DAMAGED
@given(cut=st.integers(1, 10_000))
def test_wherever_a_file_is_cut_the_whole_generations_before_are_kept(cut, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cut")
    keep(folder)
    (path,) = folder.iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[: max(0, len(whole) - cut % len(whole) - 1)])

    history = load_history(folder, "spec")

    assert len(history.losses) in (0, 5, 10)
    assert_holds(history, len(history.losses), len(history.losses))


@DAMAGED
@given(place=st.integers(0, 10_000), value=st.integers(1, 255))
def test_a_damaged_byte_costs_no_more_than_what_follows(place, value, tmp_path_factory):
    folder = tmp_path_factory.mktemp("damaged")
    keep(folder)
    (path,) = folder.iterdir()
    content = bytearray(path.read_bytes())
    content[place % len(content)] ^= value
    path.write_bytes(content)

    history = load_history(folder, "spec")

    assert len(history.losses) in (0, 5, 10)
    assert_holds(history, len(history.losses), len(history.losses))


@pytest.mark.parametrize(
    "content",
    [b"", b"\x00" * 4096, b"leaktune-history-1 spec", b"\xff" * 99],
    ids=["empty", "zeros", "head", "noise"],
)
def test_a_file_that_is_no_history_is_passed_over(content, tmp_path):
    keep(tmp_path, sizes=SIZES[:1])
    (tmp_path / "history-002.bin").write_bytes(content)

    assert_holds(load_history(tmp_path, "spec"), 5, 5)
    keep(tmp_path)
    assert_holds(load_history(tmp_path, "spec"), EVALUATIONS, 10)


def test_zeros_that_a_power_loss_left_behind_are_no_generation(tmp_path):
    keep(tmp_path, sizes=SIZES[:1])
    (path,) = tmp_path.iterdir()
    with path.open("ab") as file:
        file.write(b"\x00" * 4096)

    assert_holds(load_history(tmp_path, "spec"), 5, 5)


@pytest.mark.fault("a worker's disk full")
def test_a_full_disk_is_told_of_once_and_costs_this_attempts_history(tmp_path):
    keep(tmp_path, sizes=SIZES[:1])
    keeper = HistoryKeeper(tmp_path, "spec", load_history(tmp_path, "spec"))
    restored, second, third = generations(known=1, sizes=(5, 3, 5))
    keeper.keep(restored)
    keeper.keep(second)
    path = max(tmp_path.iterdir())
    assert_holds(load_history(tmp_path, "spec"), 8, 8)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    try:  # A limit on the size of files stands in for the end of a disk.
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 10, limits[1]))
        problem = keeper.keep(third)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)

    assert "File too large" in problem
    assert keeper.keep(third) is None
    assert_holds(load_history(tmp_path, "spec"), 5, 5)
    assert not path.exists()


def test_a_folder_that_cannot_be_written_to_is_told_of_once(tmp_path):
    (tmp_path / "trial").write_text("not a folder")

    first, *rest = keep(tmp_path / "trial")

    assert "File exists" in first
    assert rest == [None, None]


WRITER = """
import sys
from pathlib import Path
import numpy as np
from engine.attacks import History, Progress
from engine.run_folder.history_file import HistoryKeeper, load_history
folder = Path(sys.argv[1])
known = load_history(folder, "spec")
keeper = HistoryKeeper(folder, "spec", known)
losses = np.arange(10**6, dtype=np.float32)
for stop in range(7, 10**6, 7):
    details = np.repeat(losses[stop - 7 : stop, None], 1056, 1)
    progress = Progress(stop, 0.0, None, losses[:stop], details, stop <= len(known.losses))
    keeper.keep(progress)
    if not progress.known:
        print(stop, flush=True)
"""


def test_a_killed_process_loses_no_generation_that_it_had_kept(tmp_path):
    for _ in range(3):
        before = len(load_history(tmp_path, "spec").losses)
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        for _ in range(40):
            told = int(writer.stdout.readline())
        writer.kill()
        told = max([told, *map(int, writer.communicate()[0].split())])

        history = load_history(tmp_path, "spec")
        assert told > before
        assert len(history.losses) in (told, told + 7)
        np.testing.assert_array_equal(history.losses, np.arange(len(history.losses)))
        np.testing.assert_array_equal(history.details[:, 5], history.losses)
