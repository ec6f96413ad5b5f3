"""Packages of searchers: their versions, what happens without them, and what is listed."""

import importlib.metadata
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

import engine
from engine.attacks.searchers import list_searchers, make_searcher, packages
from engine.errors import PlanError

ROOT = Path(__file__).parents[2]
LISTED = [row.name for row in list_searchers()]
# A name of each family, the package it needs and the module it imports.
FAMILIES = [
    ("cma:diagonal", "cma", "cma"),
    ("nevergrad:DE", "nevergrad", "nevergrad"),
    ("optuna:TPE", "optuna", "optuna"),
    ("optuna:CmaEs", "cmaes", "cmaes"),
    ("ax:Sobol", "ax-platform", "ax.api.client"),
    ("turbo", "botorch", "botorch"),
]


def make(name):
    return make_searcher(name, dim=2, budget=10, seed=0)


def test_supported_versions_are_those_of_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    asked = {need.name: need for need in map(Requirement, project["dependencies"])}

    for package, (low, high) in packages.SUPPORTED.items():
        assert str(asked[package].specifier) == f"<{high},>={low}"


@pytest.mark.parametrize("package", packages.SUPPORTED)
def test_what_is_installed_here_is_supported(package):
    low, high = packages.SUPPORTED[package]

    assert Version(low) <= Version(packages.version(package)) < Version(high)
    assert packages.problem(package) is None


@pytest.mark.parametrize(
    ("found", "works"),
    [
        ("4.9.9", False),
        ("5.0", True),
        ("5.0.0", True),
        ("5", True),
        ("5.0.0rc1", True),
        ("5.10.1", True),
        ("6.0", False),
        ("6.0.0.dev0", False),
        ("10.0", False),
        ("5.1+cpu", True),
    ],
)
def test_a_version_is_in_range_from_the_lowest_to_below_the_highest(found, works, monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda _: found)

    assert (packages.problem("optuna") is None) == works


@pytest.mark.parametrize(("name", "package", "module"), FAMILIES)
def test_a_missing_package_is_named_with_its_range_and_remedy(name, package, module, monkeypatch):
    found = packages.version
    monkeypatch.setattr(
        packages, "version", lambda asked: None if asked == package else found(asked)
    )
    low, high = packages.SUPPORTED[package]

    with pytest.raises(PlanError) as caught:
        make(name)

    family = name.partition(":")[0]
    assert f"searcher '{family}' needs the package {package} >= {low}, < {high}" in str(
        caught.value
    )
    assert f"pip install '{package}>={low},<{high}'" in str(caught.value)


@pytest.mark.parametrize(("name", "package", "module"), FAMILIES)
def test_a_package_of_another_version_is_refused(name, package, module, monkeypatch):
    monkeypatch.setattr(packages, "version", lambda _: "99.1")

    with pytest.raises(PlanError, match=r"needs the package .*: 99\.1 is installed"):
        make(name)


@pytest.mark.parametrize(("name", "package", "module"), FAMILIES)
def test_a_package_that_fails_to_import_is_named(name, package, module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)

    with pytest.raises(PlanError, match=r"needs the package .*pip install"):
        make(name)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name.startswith(("ax", "turbo")) else ())
        for name in LISTED
    ],
)
def test_every_listed_searcher_can_be_built(name):
    assert make(name).ask(1).shape == (1, 2)


def test_all_families_are_listed_with_versions_and_found_here():
    ours = {"adam", "gauss_newton", "group_adam", "lbfgs", "random", "sepcma"}
    rows = list_searchers()

    libraries = {"ax", "cma", "nevergrad", "optuna", "turbo"}
    assert {row.family for row in rows} == ours | libraries
    assert all(row.available and row.version and row.summary.endswith(".") for row in rows)
    assert {row.version for row in rows if row.family in ours} == {engine.__version__}


def test_what_is_missing_is_listed_as_such(monkeypatch):
    monkeypatch.setattr(packages, "version", lambda name: None if name == "cmaes" else "5.0")

    rows = {row.name: row for row in list_searchers()}

    assert rows["optuna:TPE"].available
    assert not rows["optuna:CmaEs"].available
    assert not rows["turbo"].available


def test_listing_imports_none_of_the_libraries():
    script = """
import json, sys
from engine.attacks.searchers import list_searchers
list_searchers()
heavy = ("ax", "botorch", "gpytorch", "cma", "cmaes", "nevergrad", "optuna")
print(json.dumps([name for name in heavy if name in sys.modules]))
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)

    assert json.loads(ran.stdout) == []
