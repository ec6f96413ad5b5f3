import pytest
import torch

from engine.attacks.matching import Chunks, filled_up
from engine.attacks.matching.chunks import FEWEST, MULTIPLE, affordable
from engine.errors import InfrastructureError

OUT_OF_MEMORY = {
    "of a GPU": torch.OutOfMemoryError("CUDA out of memory"),
    "of a GPU that others filled": RuntimeError("CUDA error: out of memory"),
    "of its libraries": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `x`"),
    "of a CPU": RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 8 bytes"),
}


class Scorer:
    """Returns the places of candidates; fails for more than it has room for."""

    def __init__(self, room=10**9, error=None):
        self.room, self.error, self.calls = room, error, []

    def __call__(self, start, stop):
        self.calls.append((start, stop))
        if stop - start > self.room:
            raise self.error
        return torch.arange(start, stop)


@pytest.mark.parametrize("candidates", [1, 16, 17, 40, 41])
def test_every_candidate_is_scored_once_and_in_order(candidates):
    scorer = Scorer()

    found = torch.cat(Chunks(22).map(scorer, candidates))

    assert found.tolist() == list(range(candidates))
    assert all(stop - start <= 20 for start, stop in scorer.calls)


def test_a_chunk_is_never_planned_smaller_than_the_fewest():
    assert Chunks(1).size == Chunks(FEWEST).size == FEWEST


@pytest.mark.parametrize("planned", [16, 17, 19, 30, 101])
def test_a_chunk_is_a_multiple_and_stays_one(planned):
    chunks = Chunks(planned)

    assert chunks.size % MULTIPLE == 0
    assert planned - MULTIPLE < chunks.size <= planned

    scorer = Scorer(room=16, error=OUT_OF_MEMORY["of a GPU"])
    chunks.map(scorer, 64)
    assert all((stop - start) % MULTIPLE == 0 for start, stop in scorer.calls)


@pytest.mark.parametrize("error", OUT_OF_MEMORY.values(), ids=OUT_OF_MEMORY)
def test_without_room_chunks_are_halved_for_good_and_nothing_is_lost(error):
    chunks, scorer = Chunks(64), Scorer(room=20, error=error)

    assert torch.cat(chunks.map(scorer, 70)).tolist() == list(range(70))
    assert chunks.size == 16

    scorer.calls.clear()
    chunks.map(scorer, 32)
    assert scorer.calls == [(0, 16), (16, 32)]


def test_no_room_for_the_fewest_is_an_error_that_says_what_to_do():
    scorer = Scorer(room=FEWEST - 1, error=OUT_OF_MEMORY["of a GPU"])

    with pytest.raises(
        InfrastructureError, match=r"Expected memory for 16 .*a smaller target model"
    ):
        Chunks(64).map(scorer, 70)


def test_other_errors_are_passed_on():
    with pytest.raises(RuntimeError, match="shapes"):
        Chunks(64).map(Scorer(room=0, error=RuntimeError("shapes do not match")), 70)


@pytest.mark.parametrize("rows", [1, 7, 15, 16, 17, 20, 21])
def test_few_rows_are_filled_up_with_the_last_one(rows):
    tensor = torch.arange(2 * rows).view(rows, 2)

    found = filled_up(tensor)

    assert len(found) % MULTIPLE == 0
    assert max(rows, FEWEST) <= len(found) < max(rows, FEWEST) + MULTIPLE
    assert torch.equal(found[:rows], tensor)
    assert all(torch.equal(row, tensor[-1]) for row in found[rows:])


def test_what_is_affordable_follows_from_the_free_memory(monkeypatch):
    monkeypatch.setattr("engine.attacks.matching.chunks._free_bytes", lambda _: 2000)

    assert affordable(10, torch.device("cpu")) == 100
    assert affordable(10**6, torch.device("cpu")) == FEWEST


def test_this_machine_has_room_for_some():
    assert affordable(1, torch.device("cpu")) > 10**6
