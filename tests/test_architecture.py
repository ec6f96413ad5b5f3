"""The rules of the house, checked from the source: who may import what, and who may know what."""

import ast
import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

import engine.errors
from engine.attacks import GradientMatchingObjective, ThreatKnowledge
from engine.attacks.searchers import SEARCHERS, list_searchers
from engine.defenses import DEFENSES
from engine.errors import AuditError
from engine.generators import GENERATORS
from tests.attacks import test_searchers
from tests.contracts.defense import DefenseContract
from tests.contracts.generator import GeneratorContract
from tests.contracts.searcher import SearcherContract
from tests.defenses import test_contracts
from tests.generators import test_architectures

ROOT = Path(__file__).parent.parent
SOURCES = sorted((*ROOT.glob("engine/**/*.py"), *ROOT.glob("search_spaces/**/*.py")))
ATTACKER_SIDE = ("engine.attacks", "engine.defenses", "engine.generators", "search_spaces")
CORE_ROOMS = (
    "engine.datasets",
    "engine.federation",
    "engine.federation.private_images",
    "engine.defenses",
    "engine.generators",
    "engine.generators.training",
    "engine.generators.recipes",
    "engine.datasets",
    "engine.attacks",
    "engine.scoring",
    "engine.scoring.metrics",
    "engine.scoring.identification",
    "engine.scoring.oracle",
    "engine.scoring.frechet",
    "engine.scoring.evaluation_classifier",
    "engine.scoring.perceptual",
    "engine.trial",
    "search_spaces",
)
# All that a core room may import at once, besides the standard library and ourselves.
CORE_PACKAGES = {"torch", "numpy", "safetensors", "engine", "search_spaces"}
NOT_CORE = [
    *("ray", "mlflow", "pydantic", "typer", "optuna", "ax", "nevergrad", "cma", "rich", "jinja2"),
    *(
        "cmaes",
        "botorch",
        "gpytorch",
        "linear_operator",
        "matplotlib",
        "torchmetrics",
        "scipy",
        "yaml",
        "torchvision",
        "PIL",
        "pandas",
        "pytorch_pretrained_biggan",
    ),
]
HOMES = {
    "ray": ("engine/tuning/", "search_spaces/native.py"),
    "mlflow": ("engine/tracking/",),
    "cma": ("engine/attacks/searchers/cma_searcher.py",),
    "nevergrad": ("engine/attacks/searchers/nevergrad_searcher.py", "search_spaces/native.py"),
    "optuna": ("engine/attacks/searchers/optuna_searcher.py", "search_spaces/native.py"),
    "ax": ("engine/attacks/searchers/ax_searcher.py", "search_spaces/native.py"),
    "cmaes": ("engine/attacks/searchers/optuna_searcher.py",),
    "botorch": ("engine/attacks/searchers/turbo_searcher.py",),
    "gpytorch": ("engine/attacks/searchers/turbo_searcher.py",),
    "linear_operator": ("engine/attacks/searchers/turbo_searcher.py",),
    "pytorch_pretrained_biggan": ("engine/generators/biggan.py",),
}


def module_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in SOURCES}


def imported_names(path, *, at_once=False):
    """Yields the dotted names a file imports; ``from a import b`` gives a.b.

    Those imported in functions are left out of what it imports ``at_once``.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body if at_once else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively."
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def modules_run_by(name):
    """Returns those of our modules that importing a dotted name runs: itself and its parents."""
    parts = name.split(".")
    prefixes = (".".join(parts[: end + 1]) for end in range(len(parts)))
    return {prefix for prefix in prefixes if prefix in MODULES}


def reachable_from(module):
    """Returns all of our modules that importing ``module`` may ever run."""
    found, waiting = set(), modules_run_by(module)
    while waiting:
        current = waiting.pop()
        found.add(current)
        for name in imported_names(MODULES[current]):
            waiting |= modules_run_by(name) - found
    return found


def is_under(module, rooms):
    return any(module == room or module.startswith(f"{room}.") for room in rooms)


ATTACKER_MODULES = [module for module in MODULES if is_under(module, ATTACKER_SIDE)]


def test_the_sources_are_found():
    assert {"engine.trial", "engine.attacks.search", "search_spaces.latent"} <= MODULES.keys()
    assert len(ATTACKER_MODULES) > 20


def test_the_reach_of_a_module_is_transitive():
    # The trial joins all sides, so the wall's test would see through it.
    assert {
        "engine.scoring.metrics",
        "engine.federation.private_images",
        "engine.attacks.search",
        "search_spaces.latent",
    } <= reachable_from("engine.trial")


@pytest.mark.parametrize("module", ATTACKER_MODULES)
def test_nothing_on_the_attackers_side_reaches_private_images_or_scoring(module):
    forbidden = ("engine.scoring", "engine.federation.private_images", "engine.trial")

    assert not [name for name in reachable_from(module) if is_under(name, forbidden)]


def test_threat_knowledge_has_no_field_for_private_images():
    assert {field.name for field in dataclasses.fields(ThreatKnowledge)} == {
        "model",
        "head",
        "classes",
        "generate",
        "latent_dim",
        "defense_kinds",
        "training",
        "images_per_client",
    }


def test_the_objective_has_no_field_for_private_images():
    assert {field.name for field in dataclasses.fields(GradientMatchingObjective)} == {
        "observed",
        "labels",
        "other_labels",
        "knowledge",
        "imitate",
        "distance",
        "regulariser",
        "regulariser_weight",
        "chunk_size",
        "joint_labels",
        "image_priors",
    }


def test_what_the_attacker_holds_cannot_be_changed():
    for kind in (ThreatKnowledge, GradientMatchingObjective):
        assert kind.__dataclass_params__.frozen


@pytest.mark.parametrize("module", [name for name in MODULES if is_under(name, ["search_spaces"])])
def test_search_spaces_do_not_know_the_engine(module):
    assert not [name for name in imported_names(MODULES[module]) if is_under(name, ["engine"])]


@pytest.mark.parametrize("module", MODULES)
def test_each_framework_is_imported_at_home_alone(module):
    here = MODULES[module].relative_to(ROOT).as_posix()

    for name in imported_names(MODULES[module]):
        homes = HOMES.get(name.split(".")[0])
        assert homes is None or here.startswith(homes), f"{here} imports {name}; only {homes} may."


@pytest.mark.parametrize("module", CORE_ROOMS)
def test_core_rooms_import_no_framework_at_once(module):
    for reached in reachable_from(module):
        names = imported_names(MODULES[reached], at_once=True)
        packages = {name.split(".")[0] for name in names} - sys.stdlib_module_names

        assert packages <= CORE_PACKAGES, reached


def test_core_rooms_are_imported_where_no_framework_is_installed():
    code = f"""
import importlib, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {NOT_CORE!r}:
            raise ImportError(f"{{name}} is not installed here")

sys.meta_path.insert(0, Refuse())
for room in {CORE_ROOMS!r}:
    importlib.import_module(room)
"""

    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, cwd=ROOT
    )

    assert ran.returncode == 0, ran.stderr


ERRORS = [
    thing
    for thing in vars(engine.errors).values()
    if isinstance(thing, type) and issubclass(thing, BaseException)
]


@pytest.mark.parametrize("error", ERRORS)
def test_every_error_derives_from_audit_error_and_has_an_exit_code(error):
    assert issubclass(error, AuditError)
    assert error.exit_code in (1, 2, 3, 4)
    assert error is AuditError or error.exit_code != 1
    assert error.__doc__


def test_every_error_of_another_module_derives_from_ours():
    ours = {error.__name__ for error in ERRORS}
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and node.name.endswith(("Error", "Exception")):
                bases = {ast.unparse(base).rpartition(".")[2] for base in node.bases}

                assert node.name in ours or bases & ours, f"{path}: {node.name}"


def rows_of(contract, module):
    return {
        thing.name
        for thing in vars(module).values()
        if isinstance(thing, type) and issubclass(thing, contract) and thing is not contract
    }


def test_every_defense_has_a_contract_row():
    assert rows_of(DefenseContract, test_contracts) == set(DEFENSES.names())


def test_every_searcher_family_has_a_contract_row():
    rows = rows_of(SearcherContract, test_searchers)

    assert {name.partition(":")[0] for name in rows} == set(SEARCHERS.names())


def test_every_listed_searcher_has_a_contract_row():
    assert rows_of(SearcherContract, test_searchers) >= {row.name for row in list_searchers()}


def test_every_generator_architecture_has_a_contract_row():
    assert rows_of(GeneratorContract, test_architectures) == set(GENERATORS.names())
