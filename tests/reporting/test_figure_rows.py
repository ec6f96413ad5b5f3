import pytest

from engine.reporting.figure_rows import columns_of, curves_of, median_of, strips_of, unit_of
from engine.reporting.tables import table_rows
from tests.reporting.conftest import with_images_per_client, with_second_searcher


def test_the_median_is_taken_where_every_run_has_begun_and_holds_last_values():
    runs = [[(1, 9.0), (5, 1.0)], [(2, 4.0), (5, 2.0), (7, 0.0)], [(1, 5.0)], []]

    assert median_of(runs) == [(2, 5.0), (5, 2.0), (7, 1.0)]


def test_curves_show_loss_and_psnr_between_floor_and_ceiling(summary):
    loss, psnr = curves_of(summary, table_rows(summary)[0])

    assert loss.log
    assert (len(loss.runs), len(loss.median)) == (3, 20)
    assert (psnr.floor, psnr.ceiling, psnr.log) == (10.42, 21.64, False)


@pytest.mark.parametrize(("searches", "drawn"), [(60, 60), (61, 31), (1000, 59)])
def test_of_many_searches_some_are_drawn_and_all_count_for_the_median(searches, drawn, summary):
    row = table_rows(summary)[0]
    one = next(trial for trial in summary["trials"] if trial["attack"] == "ggl")
    summary["trials"] = [
        one | {"trace": [[1, 1.0 + number, 9.0]], "target": number} for number in range(searches)
    ]

    loss, psnr = curves_of(summary, row)

    assert len(loss.runs) == len(psnr.runs) == drawn
    assert loss.runs[1] == [(1, 1.0 + -(-searches // 60))]
    assert loss.median == [(1, (searches + 1) / 2)]


def test_losses_of_either_sign_or_in_a_narrow_range_get_a_linear_axis(summary):
    row = table_rows(summary)[0]
    trials = [trial for trial in summary["trials"] if trial["attack"] == "ggl"]
    for trial in trials:
        trial["trace"] = [[1, 1000.5, 9.0], [50, 1000.1, 9.5]]
    assert not curves_of(summary, row)[0].log

    trials[0]["trace"] = [[1, 0.1, 9.0], [50, -5.0, 9.5]]
    assert not curves_of(summary, row)[0].log


def test_a_trace_with_gaps_and_a_defense_without_trace_are_accepted(summary):
    first, second = table_rows(summary)
    for trial in summary["trials"]:
        trial["trace"] = [[1, None, 9.0], [50, 0.5, None]] if trial["defense"] == "none" else []

    loss, psnr = curves_of(summary, first)

    assert (loss.median, psnr.median) == ([(50, 0.5)], [(1, 9.0)])
    assert curves_of(summary, second) == []


def test_strips_run_from_the_original_to_the_oracle(summary, images):
    targets, strips = strips_of(summary, images)

    assert targets == [0, 1, 2]
    block = ["prior_only", "shuffled", "random_best", "attack"]
    assert [strip.kind for strip in strips] == ["original", *block, *block, "oracle"]
    assert strips[4].images == ["none-ggl-0", "none-ggl-1", "none-ggl-2"]


def test_the_montage_shows_the_controls_of_the_first_defense(summary, images):
    _, strips = strips_of(summary, images, first_controls_only=True)

    kinds = ["original", "prior_only", "shuffled", "random_best", "attack", "attack", "oracle"]
    assert [strip.kind for strip in strips] == kinds


def test_each_searcher_has_its_attack_and_its_shuffled_control_in_strips_of_their_own(
    summary, images
):
    with_second_searcher(summary, ggl=15.5, shuffled=9.5)
    images |= {
        f"none-{attack}-{n}-random": images["target/0"]
        for attack in ("ggl", "shuffled")
        for n in range(3)
    }

    _, strips = strips_of(summary, images, first_controls_only=True)

    assert [(strip.kind, strip.note) for strip in strips[1:7]] == [
        ("prior_only", "defense: none"),
        ("shuffled", "defense: none, by nevergrad:DiagonalCMA"),
        ("shuffled", "defense: none, by random"),
        ("random_best", "defense: none"),
        ("attack", "rebuilt by nevergrad:DiagonalCMA"),
        ("attack", "rebuilt by random"),
    ]
    assert strips[3].images == [f"none-shuffled-{target}-random" for target in range(3)]


def test_a_missing_reconstruction_leaves_a_gap(summary, images):
    del images["none-ggl-1"]

    _, strips = strips_of(summary, images)

    assert strips[4].images == ["none-ggl-0", None, "none-ggl-2"]
    assert strips[4].psnr[1] is None


def test_only_the_first_ten_targets_are_shown(summary, images):
    oracle = next(trial for trial in summary["trials"] if trial["attack"] == "oracle")
    for target in range(3, 14):
        summary["trials"].append({**oracle, "id": f"oracle-{target}", "target": target})
        images |= {f"oracle-{target}": images["none-ggl-0"], f"target/{target}": images["target/0"]}

    targets, strips = strips_of(summary, images)

    assert targets == list(range(10))
    assert {len(strip.images) for strip in strips} == {10}


@pytest.mark.parametrize(
    ("images", "columns", "unit"),
    [(1, 1, "image"), (2, 2, "client"), (4, 2, "client"), (5, 3, "client"), (16, 4, "client")],
)
def test_the_images_of_a_client_stand_in_a_square(images, columns, unit):
    summary = {"plan": {"client": {"images": images}}}

    assert (columns_of(summary), unit_of(summary)) == (columns, unit)


@pytest.mark.parametrize(("per_client", "shown"), [(2, 5), (9, 3), (200, 1)])
def test_as_many_targets_are_shown_as_have_room_for_their_images(per_client, shown, images):
    summary, _ = with_images_per_client(per_client, images)
    for target in range(3, 14):
        images[f"target/{target}"] = images["target/0"]
        oracle = next(trial for trial in summary["trials"] if trial["attack"] == "oracle")
        summary["trials"].append({**oracle, "id": f"oracle-{target}", "target": target})

    targets, _ = strips_of(summary, images)

    assert targets == list(range(shown))
