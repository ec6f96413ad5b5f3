import io

from rich.console import Console

from engine.reporting import markdown_table, render_terminal, table_rows
from engine.reporting.tables import Estimate, interval, number, percent, significant
from tests.reporting.conftest import with_second_searcher


def in_terminal(summary, width=100):
    console = Console(file=io.StringIO(), width=width, color_system=None)
    render_terminal(summary, console)
    return console.file.getvalue()


def cells_of(line):
    return [cell.strip() for cell in line.strip().strip("|").split(" | ")]


def test_has_one_row_for_each_defense_in_the_order_of_the_plan(summary):
    summary["groups"].reverse()

    rows = table_rows(summary)

    assert [row.defense for row in rows] == ["none", "sparsification(percent=90)"]


def test_a_row_holds_the_attack_between_floor_and_ceiling(summary):
    row = table_rows(summary)[1]

    assert (row.prior_only, row.psnr.mean, row.oracle) == (10.47, 14.58, 21.64)
    assert (row.shuffled, row.random_best) == (10.21, 12.76)
    assert row.top1 == Estimate(0.333, 0.06, 0.79)
    assert (row.chance, row.label_accuracy) == (0.01, 1.0)
    assert (row.defense_change, row.status, row.searches) == (0.314, "inconclusive", 3)


def test_a_defense_whose_attack_failed_keeps_its_row(summary):
    summary["groups"] = [group for group in summary["groups"] if group["attack"] != "ggl"]

    rows = table_rows(summary)

    assert [row.defense for row in rows] == ["none", "sparsification(percent=90)"]
    assert rows[0].psnr == Estimate()
    assert rows[0].searches == 0


def test_a_second_searcher_gets_its_own_row_with_its_own_verdict_and_its_own_shuffled(summary):
    with_second_searcher(summary, ggl=15.5, shuffled=9.5)

    rows = table_rows(summary)

    assert [(row.by, row.psnr.mean, row.shuffled, row.status) for row in rows[:2]] == [
        ("nevergrad:DiagonalCMA", 16.91, 10.13, "leaks"),
        ("random", 15.5, 9.5, "no leak shown"),
    ]
    assert (rows[1].prior_only, rows[1].random_best, rows[1].oracle) == (10.42, 13.37, 21.64)
    assert "none / random" in markdown_table(summary)
    assert "none / nevergrad:DiagonalCMA" in markdown_table(summary)


def test_the_shuffled_control_of_one_searcher_never_stands_in_for_anothers(summary):
    with_second_searcher(summary, ggl=15.5)

    assert table_rows(summary)[1].shuffled is None


def test_numbers_have_a_true_minus_and_missing_ones_are_a_dash():
    assert number(-1.25, 2) == "−1.25"
    assert number(-0.04) == "0.0"
    assert number(None) == number(float("nan")) == percent(None) == significant(None) == "–"
    assert [percent(share) for share in (0, 0.01, 0.0999, 0.5, -0.2)] == [
        "0 %",
        "1.0 %",
        "10 %",
        "50 %",
        "−20 %",
    ]
    assert [significant(value) for value in (18, 0.0217, 123.4)] == ["18.0", "0.0217", "123"]
    assert interval(Estimate(0.5, -0.12, 0.9), percents=True) == "−12 to 90 %"
    assert interval(Estimate(0.5)) == ""


def test_the_terminal_shows_everything_in_100_columns(summary):
    text = in_terminal(summary)

    assert max(map(len, text.splitlines())) <= 100
    assert "…" not in text
    assert "..." not in text
    for expected in ("58 %", "49 to 69 %", "16.9", "15.7 to 18.3", "10.4", "21.6", "10.1", "13.4"):
        assert expected in text
    for expected in ("31 %", "33 %", "6 to 79 %", "by luck 1.0 %", "inconclusive", "LEAKS"):
        assert expected in text


def test_the_terminal_cuts_no_long_name_and_reads_no_markup(summary):
    label = "clipping(max_norm=4) + gaussian_noise(std=0.001) + soteria(p=[bold]80)"
    for entry in (*summary["verdict"]["defenses"][1:], *summary["groups"]):
        if entry["defense"].startswith("spars"):
            entry["defense"] = label

    text = in_terminal(summary)

    assert max(map(len, text.splitlines())) <= 100
    for piece in ("clipping", "(max_norm=4)", "gaussian_noise", "(std=0.001)", "[bold]80)"):
        assert piece in text


def test_the_terminal_shows_dashes_for_what_was_not_measured(summary):
    summary["groups"] = []

    text = in_terminal(summary)

    assert "–" in text
    assert "None" not in text


def test_the_markdown_table_has_as_many_cells_in_each_line(summary):
    summary["groups"][0]["defense"] = summary["verdict"]["defenses"][0]["defense"] = "a|b <i>"

    lines = markdown_table(summary).splitlines()

    header = cells_of(lines[0])
    assert header[0] == "Defense"
    assert header[-1] == "Status"
    assert {len(cells_of(line)) for line in lines} == {len(header)} == {12}
    assert r"a\|b &lt;i>" in lines[2]


def test_the_markdown_table_holds_the_figures(summary):
    cells = cells_of(markdown_table(summary).splitlines()[3])

    assert cells == [
        "sparsification(percent=90)",
        "31 %",
        "37 % (28 to 48 %)",
        "14.6 (13.4 to 16.0)",
        "10.5",
        "10.2",
        "12.8",
        "21.6",
        "33 % (6 to 79 %)",
        "1.0 %",
        "100 %",
        "inconclusive",
    ]


def test_the_widest_figures_still_fit_the_terminal(summary):
    for group in summary["groups"]:
        group["defense_change"] = 1234.5
        group["leakage_fraction"] = {"mean": -1.234, "low": -12.34, "high": 12.34}
        group["metrics"]["psnr"] = {"mean": 100.0, "low": 100.0, "high": 100.0, "worst": 100.0}
        group["identification"] |= {"top1": 1.0, "low": 1.0, "high": 1.0, "chance": 0.0001}
    summary["verdict"]["defenses"][0]["status"] = "no leak shown"

    text = in_terminal(summary)

    assert max(map(len, text.splitlines())) <= 100
    assert "…" not in text
    for expected in ("123450 %", "−1234 to 1234 %", "100.0 to 100.0", "100 to 100 %", "no leak"):
        assert expected in text
