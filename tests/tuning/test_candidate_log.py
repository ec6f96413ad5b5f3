import numpy as np
import pytest

from engine.tuning.candidate_log import CandidateLog


@pytest.fixture
def path(tmp_path):
    return tmp_path / "candidates.jsonl"


def test_what_was_added_is_known_to_the_next_one(path):
    first = CandidateLog(path, "spec", 4)
    first.add(2, 0.1)
    first.add(0, float("nan"))

    again = CandidateLog(path, "spec", 4)

    assert again.known.tolist() == [True, False, True, False]
    np.testing.assert_array_equal(again.losses, first.losses)
    assert again.losses[2] == np.float32(0.1)


def test_a_line_that_a_crash_cut_off_is_forgotten(path):
    CandidateLog(path, "spec", 4).add(2, 0.1)
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"candidate": 1, "lo')

    again = CandidateLog(path, "spec", 4)
    assert again.known.sum() == 1

    again.add(3, 0.5)
    assert path.read_bytes() == whole + b'{"candidate": 3, "loss": 0.5}\n'


@pytest.mark.parametrize("written", [None, "", "no JSON\n", '{"spec": "other"}\n'])
def test_what_is_not_of_this_search_is_not_taken(path, written):
    if written is not None:
        path.write_text(written)

    log = CandidateLog(path, "spec", 4)
    log.add(1, 0.5)

    assert CandidateLog(path, "spec", 4).known.tolist() == [False, True, False, False]


def test_nothing_is_written_to_a_file_that_is_another_drivers(path):
    CandidateLog(path, "spec", 4).add(2, 0.1)
    before = path.read_bytes()

    CandidateLog(path, "spec", 4, may_write=lambda: False).add(1, 0.5)

    assert path.read_bytes() == before
