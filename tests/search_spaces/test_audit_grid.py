from search_spaces.audit_grid import GridPoint, audit_axes, audit_grid, grid_points, strengths


def test_an_audit_runs_target_by_target_with_the_oracle_once_each():
    assert audit_grid(2, ("ggl", "oracle"), 2) == [
        GridPoint(defense=0, attack="ggl", target=0),
        GridPoint(defense=0, attack="oracle", target=0),
        GridPoint(defense=1, attack="ggl", target=0),
        GridPoint(defense=0, attack="ggl", target=1),
        GridPoint(defense=0, attack="oracle", target=1),
        GridPoint(defense=1, attack="ggl", target=1),
    ]


def test_axes_without_values_are_left_out():
    axes = audit_axes(targets=range(2), defenses=["none"], seeds=(5,))

    assert axes == {"target": [0, 1], "defense": ["none"], "seed": [5]}


def test_the_last_axis_changes_fastest():
    assert grid_points({"target": [0, 1], "seed": [3, 4]}) == [
        {"target": 0, "seed": 3},
        {"target": 0, "seed": 4},
        {"target": 1, "seed": 3},
        {"target": 1, "seed": 4},
    ]


def test_a_defense_is_listed_at_each_of_its_strengths():
    assert strengths("soteria", percent=[40, 80], version=["ggl"]) == [
        {"name": "soteria", "percent": 40, "version": "ggl"},
        {"name": "soteria", "percent": 80, "version": "ggl"},
    ]
    assert strengths("none") == [{"name": "none"}]
