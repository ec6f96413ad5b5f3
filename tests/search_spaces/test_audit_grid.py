from collections import Counter

from search_spaces.audit_grid import GridPoint, audit_grid, grid_points


def test_an_audit_runs_target_by_target_with_the_oracle_once_each():
    points = audit_grid(targets=2, defenses=2, attacks=1, controls=["oracle"], seeds=[5])

    assert points == [
        GridPoint(target=0, defense=0, control="", attack=0, seed=5),
        GridPoint(target=0, defense=1, control="", attack=0, seed=5),
        GridPoint(target=0, defense=0, control="oracle", attack=0, seed=5),
        GridPoint(target=1, defense=0, control="", attack=0, seed=5),
        GridPoint(target=1, defense=1, control="", attack=0, seed=5),
        GridPoint(target=1, defense=0, control="oracle", attack=0, seed=5),
    ]


def test_what_depends_on_no_attack_runs_once_a_seed():
    controls = ("prior_only", "shuffled", "random_best", "oracle")

    points = audit_grid(targets=1, defenses=2, attacks=3, controls=controls, seeds=[7, 9])

    runs = Counter((point.control, point.defense, point.seed) for point in points)
    assert len(points) == len(set(points))
    for seed in (7, 9):
        assert [runs[control, 1, seed] for control in ("", *controls)] == [3, 1, 3, 1, 0]
        assert [runs[control, 0, seed] for control in ("", *controls)] == [3, 1, 3, 1, 1]


def test_the_last_axis_changes_fastest():
    assert grid_points({"target": [0, 1], "seed": [3, 4]}) == [
        {"target": 0, "seed": 3},
        {"target": 0, "seed": 4},
        {"target": 1, "seed": 3},
        {"target": 1, "seed": 4},
    ]
