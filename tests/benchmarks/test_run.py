import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import cases, quality_report, run, scale, soak

ROOT = Path(__file__).parents[2]
SMALL = ["--json", "--rounds", "1", "--threads", "1"]
OBJECTIVE = ["objective", *SMALL, "--population", "9", "--sequential", "2", "--case"]


def results_of(capsys, *arguments):
    assert run.main([*arguments]) == 0
    return json.loads(capsys.readouterr().out)


def finite(row, *keys):
    return all(math.isfinite(row[key]) and row[key] > 0 for key in keys)


@pytest.mark.parametrize("variant", ["squared_l2", "cosine", "known_mask", "batch_of_4"])
def test_objective_measures_every_ratio_of_a_case(variant, capsys):
    found = results_of(capsys, *OBJECTIVE, f"lenet/{variant}")

    [(name, row)] = found["cases"].items()
    assert name == f"lenet/{variant}"
    assert row["path"] == "kernels"
    assert finite(row, "speedup_vs_sequential", "speedup_vs_vmap", "cost_vs_training_step")
    assert 0 <= row["max_relative_error"] < 1e-2
    assert {"machine", "threads", "torch", "commit"} <= set(found)


def test_ours_and_one_at_a_time_score_the_same_candidates(capsys):
    row = results_of(capsys, *OBJECTIVE, "lenet/cosine")["cases"]["lenet/cosine"]

    assert row["max_relative_error"] < 1e-5
    assert row["sequential_relative_error"] < 1e-5


def test_gradients_are_measured_against_vmap_and_equal_its(capsys):
    words = ["gradients", *SMALL, "--population", "16", "--case", "lenet/*"]

    found = results_of(capsys, *words)["cases"]

    assert set(found) == {f"lenet/{variant}" for variant in cases.VARIANTS}
    for row in found.values():
        assert finite(row, "speedup_vs_vmap", "cost_vs_losses", "candidates_per_s")
        assert row["max_relative_error"] < 1e-4


def test_searcher_measures_its_share_of_a_generation(capsys):
    searchers = ["--searcher", "sepcma", "--searcher", "gauss_newton"]
    found = results_of(capsys, "searcher", *SMALL, *searchers)

    assert len(found["cases"]) == 4
    assert all(0 < row["searcher_share"] < 1 for row in found["cases"].values())


QUALITY = ["search-quality", *SMALL, "--targets", "1", "--budget", "60", "--defense", "clipping"]


def test_search_quality_looks_at_every_searcher_asked_for_at_equal_budgets(capsys, tmp_path):
    results, plot, tables = tmp_path / "r.jsonl", tmp_path / "curves.png", tmp_path / "t.md"
    files = ["--results", str(results), "--plot", str(plot), "--markdown", str(tables)]
    searchers = ["--searcher", "ggl*", "--searcher", "sepcma", "--searcher", "gauss_newton"]

    rows = results_of(capsys, *QUALITY, *searchers, *files)["cases"]

    assert set(rows) == {
        f"{name}/clipping/60" for name in ("ggl", "ggl preset", "sepcma", "gauss_newton")
    }
    assert min(row["excess"] for row in rows.values()) == 0
    assert all(0 < row["seconds"] < 60 for row in rows.values())
    assert all(row["n"] == 1 and 0 < row["searcher_share"] < 1 for row in rows.values())
    assert all(0 < row["loss"] < 1 and 5 < row["psnr"]["mean"] < 40 for row in rows.values())
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert "| gauss_newton |" in tables.read_text(encoding="utf-8")


def test_search_quality_goes_on_where_it_was_stopped(capsys, tmp_path):
    results = tmp_path / "r.jsonl"
    arguments = [*QUALITY, "--searcher", "sepcma", "--results", str(results)]
    first = results_of(capsys, *arguments)["cases"]
    kept = results.read_text(encoding="utf-8")
    results.write_text(kept + '{"searcher": "cut o', encoding="utf-8")

    again = results_of(capsys, *arguments, "--defense", "clipping", "none")["cases"]

    assert again["sepcma/clipping/60"] == first["sepcma/clipping/60"]
    assert set(again) == {"sepcma/clipping/60", "sepcma/none/60"}
    assert results.read_text(encoding="utf-8").startswith(kept)


def search_found(searcher, losses, *, target=0, curve=()):
    """Returns a row of results as a search leaves it."""
    looks = {
        str(budget): {
            "loss": loss,
            "psnr": 20.0,
            "identified": 1.0,
            "seconds": 1.0,
            "searcher_share": 0.1,
        }
        for budget, loss in losses.items()
    }
    return {
        "searcher": searcher,
        "defense": "none",
        "target": target,
        "budget": max(losses),
        "curve": [list(point) for point in curve],
        "prior": 1.0,
        "at": looks,
    }


def test_the_default_is_held_against_the_published_search_on_the_same_updates():
    rows = [
        search_found("ggl", {1_000: 0.5, 25_000: 0.2}),
        search_found("ggl", {1_000: 0.5, 25_000: 0.2}, target=1),
        search_found("gauss_newton", {1_000: 0.3, 25_000: 0.1}, curve=[(100, 0.4), (3_000, 0.2)]),
        search_found("gauss_newton", {1_000: 0.6, 25_000: 0.1}, target=1, curve=[(500, 0.1)]),
    ]

    found = quality_report.claims(rows)["ggl/none"]

    assert found["n"] == 2
    assert found["reached_after"] == (3_000 + 500) / 2
    assert found["within_aim"] == 0.5
    assert found["wins"] == {"1000": 0.5, "25000": 1.0}


def test_nothing_is_claimed_of_a_budget_at_which_not_all_updates_were_searched():
    rows = [
        search_found("ggl", {1_000: 0.5, 25_000: 0.2}),
        search_found("ggl", {1_000: 0.5, 25_000: 0.2}, target=1),
        search_found("gauss_newton", {1_000: 0.3, 25_000: 0.1}, curve=[(100, 0.1)]),
        search_found("gauss_newton", {1_000: 0.3}, target=1, curve=[(100, 0.1)]),
    ]

    assert quality_report.claims(rows)["ggl/none"]["wins"] == {"1000": 1.0, "25000": None}
    assert "| 2 | 100 | 100% | 100% |  |" in quality_report.markdown(rows)


def test_an_excess_is_of_what_lies_between_the_prior_and_the_lowest_loss_of_the_same_update():
    rows = [
        search_found("sepcma", {1_000: 0.2}),
        search_found("random", {1_000: 0.6}),
        search_found("cma:full", {1_000: 0.4}),
    ]

    found = quality_report.summarise(rows)

    assert found["sepcma/none/1000"]["excess"] == 0
    assert found["random/none/1000"]["excess"] == pytest.approx(0.5)
    assert found["cma:full/none/1000"]["excess"] == pytest.approx(0.25)


def test_generator_measures_speed_and_error_by_precision(capsys):
    rows = results_of(capsys, "generator", *SMALL, "--population", "3")["cases"]

    assert rows["MlpGenerator/float32"]["max_image_error"] == 0
    assert 0 < rows["DcganSized/bfloat16"]["max_image_error"] < 0.1
    assert all(finite(row, "speedup_vs_float32", "images_per_s") for row in rows.values())


def test_scaling_measures_its_curves_and_draws_them(capsys, tmp_path):
    plot = tmp_path / "scaling.png"

    found = results_of(
        capsys, "scaling", *SMALL, "--most", "8", "--without-ray", "--plot", str(plot)
    )

    assert {name.split()[0] for name in found["cases"]} == {
        "candidates",
        "parameters",
        "image_size",
    }
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_fanout_measures_an_audit(capsys):
    found = results_of(capsys, "fanout", *SMALL, "--set", "targets=2", "--set", "attack.budget=56")

    assert 0 < found["cases"]["embedded"]["fanout_efficiency"] <= 1


def test_people_are_shown_a_table_with_what_was_aimed_at(capsys):
    assert run.main([*OBJECTIVE[:1], *SMALL[1:], *OBJECTIVE[-5:], "lenet/squared_l2"]) == 0

    shown = capsys.readouterr().out
    assert "lenet/" in shown
    assert "(≥" in shown


def test_an_unknown_case_is_refused_with_those_there_are(capsys):
    assert run.main([*OBJECTIVE, "vgg/*"]) == 2

    assert "lenet/squared_l2" in capsys.readouterr().err


def test_objective_needs_nothing_but_torch_and_its_kin():
    hidden = ("ray", "mlflow", "pydantic", "optuna", "ax", "nevergrad", "cma", "typer")
    script = f"""
import sys
for name in {hidden!r}:
    sys.modules[name] = None
sys.path.insert(0, {str(ROOT)!r})
from benchmarks import cases, quality_report, run
sys.exit(run.main({[*OBJECTIVE, "lenet/squared_l2"]!r}))
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)

    assert ran.returncode == 0, ran.stderr
    assert "lenet/squared_l2" in json.loads(ran.stdout)["cases"]


def test_the_script_runs_by_its_path():
    ran = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "run.py"), "--help"],
        capture_output=True,
        text=True,
    )

    assert ran.returncode == 0
    assert "objective" in ran.stdout


def test_figures_of_fewer_targets_than_others_say_so():
    rows = [
        search_found("sepcma", {1_000: 0.5}),
        search_found("sepcma", {1_000: 0.5}, target=1),
        search_found("random", {1_000: 0.6}),
    ]

    lines = quality_report.markdown(rows).splitlines()

    assert [
        line.split("|")[1].strip() for line in lines if line.startswith(("| sep", "| ran"))
    ] == [
        "sepcma",
        "random (of 1 targets)",
    ]


def test_searches_without_the_published_one_end_without_a_claim(capsys, tmp_path):
    arguments = [*QUALITY, "--searcher", "sepcma", "--results", str(tmp_path / "r.jsonl")]
    arguments.remove("--json")

    assert run.main(arguments) == 0

    assert "sepcma behind clipping, target 0: loss" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--images", "4"], "same --images and --directions"),
        (["--directions", "8"], "same --images and --directions"),
        (["--images", "30", "--targets", "2"], "Expected at most 1 targets of 30 images, got 2"),
    ],
)
def test_searches_of_other_problems_are_not_mixed_in_one_file(capsys, tmp_path, options, message):
    arguments = [*QUALITY, "--searcher", "sepcma", "--results", str(tmp_path / "r.jsonl")]
    results_of(capsys, *arguments)

    assert run.main([*arguments, *options]) == 2

    assert message in " ".join(capsys.readouterr().err.split())


@pytest.mark.slow
def test_scale_measures_an_audit_of_sleeping_stand_ins():
    case = {"queued": 40, "workers": 2, "seconds": 0.2}

    [row] = scale.in_turn(scale.measure_queue, [case])

    assert (row["queued"], row["workers"]) == (40, 2)
    assert row["trials"] >= 30
    assert 0 < row["fanout_efficiency"] < 1
    assert finite(row, "trials_per_s", "hand_over_s", "driver_cpu_s_per_trial", "driver_bytes")


@pytest.mark.slow
def test_scale_measures_real_workers_that_sleep():
    [row] = scale.in_turn(scale.measure_real, [{"workers": 1, "seconds": 1.0}])

    assert row["queued"] == scale.WAVES
    assert 0.2 < row["fanout_efficiency"] < 1


@pytest.mark.slow
def test_soak_measures_growth(capsys, monkeypatch):
    monkeypatch.setattr(soak, "LOOK_SECONDS", 0.2)  # It is over in seconds.

    row = results_of(capsys, "soak", "--json", "--trials", "80")["cases"]["80 trials"]

    assert row["failed"] == 0
    assert finite(row, "pace_at_the_end", "driver_bytes", "worker_bytes")
    assert all(files > 0 for files in row["driver_files"] + row["worker_files"])
