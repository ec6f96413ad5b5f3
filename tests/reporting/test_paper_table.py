import math
from pathlib import Path

import pytest

import search_spaces
from engine.lab import trial_specs
from engine.plan import read_plan
from engine.reporting import paper_markdown
from engine.reporting.page import render_page
from engine.reporting.paper_table import COLUMNS, paper_rows
from engine.reporting.published import PUBLISHED
from engine.scoring.metrics import PAPER_PSNR, paper_mse
from engine.scoring.variants import is_attack
from tests.reporting.conftest import with_second_searcher

PAPER = Path(search_spaces.__file__).parent / "paper"


def test_the_papers_convention_has_four_times_the_mse_and_six_decibels_less():
    assert paper_mse(0.01) == pytest.approx(0.04)
    assert pytest.approx(-10 * math.log10(0.04)) == 20 + PAPER_PSNR


def test_each_defense_has_its_floor_its_attacks_and_the_ceiling(summary):
    with_second_searcher(summary, ggl=15.5)
    for group in summary["groups"]:
        group["metrics"] = {"mse": {"mean": 0.02}, "mse_r": {"mean": 0.012}} | group["metrics"]
        group["metrics"]["psnr"] = {"low": None, "high": None} | group["metrics"]["psnr"]

    rows = paper_rows(summary)

    assert [row[:2] for row in rows[:4]] == [
        ("none", "floor: prior_only"),
        ("none", "nevergrad:DiagonalCMA"),
        ("none", "random"),
        ("none", "ceiling: oracle"),
    ]
    assert [row[0] for row in rows[4:]] == ["sparsification(percent=90)"] * 3
    mse, psnr, published, vgg, _, mse_r = rows[1][2:8]
    assert (mse, mse_r, vgg, published) == ("0.0868", "0.0123", "–", "–")
    assert psnr == "10.89 (9.69 to 12.29)"  # 16.91, 15.71 and 18.31 less 6.02.
    assert rows[2][3] == "9.48"


def test_the_markdown_names_the_convention(summary):
    text = paper_markdown(summary)

    assert text.startswith("In the convention of Li et al. (2022): images in [−1, 1], peak 1.")
    assert text.count("\n|") == 2 + 3 + 2 + len(paper_rows(summary))


def test_a_short_table_has_a_row_for_each_attack_and_a_column_for_each_defense(summary):
    with_second_searcher(summary, ggl=15.5)
    for group in summary["groups"]:
        group["metrics"]["psnr"] = {"low": None, "high": None} | group["metrics"]["psnr"]

    lines = paper_markdown(summary).splitlines()[4:10]

    assert lines[0] == "| Attack | none | sparsification(percent=90) |"
    names = [line.split(" | ")[0] for line in lines[2:]]
    assert names == [
        "| floor: prior_only",
        "| nevergrad:DiagonalCMA",
        "| random",
        "| ceiling: oracle",
    ]
    assert lines[4] == "| random | 9.48 | – |"


def test_the_page_has_the_table_where_the_plan_wants_it(summary):
    without = render_page(summary, None)
    summary["plan"]["paper_table"] = True
    page = render_page(summary, None)

    assert "The paper's table" not in without
    assert "The paper's table" in page
    assert all(heading in page for heading in COLUMNS)
    assert "10.89 (9.69 to 12.29)" in page


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_published_figures_are_of_attacks_and_defenses_of_the_plan(name):
    plan, _ = read_plan(PAPER / f"{name}.yaml")
    labels = {spec.defense_label for spec in trial_specs(plan)}

    assert {attack for _, attack in PUBLISHED[name]} <= set(plan.attacks)
    assert {defense for defense, _ in PUBLISHED[name]} <= labels


def test_the_papers_own_figure_stands_beside_ours(summary):
    summary["plan"]["name"] = "table3"
    [group] = [one for one in summary["groups"] if one["defense"] != "none" and is_attack(one)]
    group |= {"by": "ggl"}
    group["metrics"] = {"psnr": {"low": None, "high": None} | group["metrics"]["psnr"]}

    assert "[11.15 / 6.69]" in paper_markdown(summary)
    assert "| 11.15 / 6.69 |" in paper_markdown(summary)
