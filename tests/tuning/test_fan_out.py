from ray.tune.search.variant_generator import generate_variants

from engine.tuning.fan_out import in_turn
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


def test_the_next_trial_is_found_without_going_through_all_of_them():
    assert InOrder().choose_trial_to_run(None) is None
