"""How good searches are at equal budgets: every searcher, several targets, the paper's defenses."""

import fnmatch
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from torch import Tensor

from engine import assets
from engine.attacks import (
    PRESETS,
    AttackSettings,
    GradientMatchingObjective,
    Progress,
    prepare_objective,
    run_search,
)
from engine.attacks.searchers import Searcher, list_searchers, make_searcher
from engine.attacks.spaces import space_of
from engine.errors import PlanError
from engine.federation import find_head, make_target_model
from engine.federation.private_images import load_private_images
from engine.generators import load_generator
from engine.run_folder import json_lines
from engine.scoring.assignment import assign
from engine.scoring.evaluation_classifier import load_classifier
from engine.scoring.reconstructions import score
from engine.seeding import stream_seed
from engine.trial import knowledge_of, observe
from engine.trial.parts import Lab, TrialSpec

BUDGETS: Final = (1_000, 5_000, 25_000)
# The paper's four defenses, as the embedded plan has them, and none.
DEFENSES: Final[Mapping[str, tuple[tuple[str, Mapping[str, object]], ...]]] = {
    "none": (("none", {}),),
    "gaussian_noise": (("gaussian_noise", {"std": 0.1}),),
    "clipping": (("clipping", {"max_norm": 4.0}),),
    "sparsification": (("sparsification", {"percent": 90.0}),),
    "soteria": (("soteria", {"percent": 80.0}),),
}
# Largest budget of searchers that are too slow for the others, by name or family.
AFFORDABLE: Final = {
    "nevergrad": 5_000,
    "nevergrad:OnePlusOne": 1_000,
    "optuna": 2_500,
    "turbo": 2_500,
    "optuna:GP": 250,
    "ax": 250,
}
CURVE_POINTS: Final = 40


@dataclass(frozen=True)
class Contestant:
    """A searcher under the name the results have.

    Attributes:
        name: Of a searcher; ``ggl`` for the search of the published code, ``ggl preset`` for all
            of it, its own loss included.
        settings: How it attacks.
        budgets: Those it is run at.
    """

    name: str
    settings: AttackSettings
    budgets: tuple[int, ...]

    @property
    def directions(self) -> object:
        """How many directions of an image it searches; None for all coordinates."""
        return self.settings.space_settings.get("directions")

    @property
    def runs(self) -> tuple[tuple[int, tuple[int, ...]], ...]:
        """Budgets to run, and at which evaluations of each to look.

        One run for all of them, unless the searcher plans by the budget.
        """
        if self.name.startswith("nevergrad:") or self.name == "group_adam":
            return tuple((budget, (budget,)) for budget in self.budgets)
        return ((max(self.budgets), self.budgets),)


def contestants(
    patterns: Sequence[str], budgets: Sequence[int], *, directions: int | None = None
) -> list[Contestant]:
    """Returns those whose name matches one of the patterns, at the budgets they can afford.

    All of them search the inferred labels alone, in so many principal directions of each image if
    these are given, and the published ones are left out then.
    """
    ggl = PRESETS["ggl"]
    common = replace(AttackSettings(), label_hypotheses=1)
    published = replace(
        common, searcher=ggl.searcher, searcher_settings=ggl.searcher_settings, space=ggl.space
    )
    found = {"ggl": published, "ggl preset": ggl}
    if directions is not None:
        common = replace(common, space="principal", space_settings={"directions": directions})
        found = {}
    found |= {row.name: common.with_searcher(row.name) for row in list_searchers()}
    chosen = []
    for name, settings in found.items():
        most = AFFORDABLE.get(name, AFFORDABLE.get(name.partition(":")[0], max(BUDGETS)))
        within = tuple(budget for budget in budgets if budget <= most)
        if within and any(fnmatch.fnmatch(name, pattern) for pattern in patterns):
            chosen.append(Contestant(name, settings, within))
    return chosen


def embedded_lab() -> Lab:
    """Returns the models and images of the embedded default."""
    generator = load_generator(assets.asset("fashion-mnist", "generator"))
    shape, classes = generator.image_shape, generator.classes
    model = make_target_model("lenet", image_shape=shape, classes=classes, seed=0)
    return Lab(
        model=model,
        head=find_head(model, shape),
        generator=generator,
        private=load_private_images(assets.asset("fashion-mnist", "private_images")),
        classifier=load_classifier(assets.asset("fashion-mnist", "classifier")),
    )


def search_all(
    chosen: Sequence[Contestant],
    targets: Sequence[int],
    defenses: Sequence[str],
    path: Path,
    *,
    images: int = 1,
) -> Iterator[dict[str, Any]]:
    """Runs every search that ``path`` does not hold yet, appends each to it, and yields it.

    Args:
        chosen: Who searches.
        targets: Clients, each with as many private images as ``images``.
        defenses: Names of :data:`DEFENSES`.
        path: File of results, of clients with so many images.
        images: Private images of a client.
    """
    lab = embedded_lab()
    clients = len(lab.private.images) // images
    if max(targets) >= clients:
        raise PlanError(
            f"Expected at most {clients} targets of {images} images, got {max(targets) + 1}. "
            "Lower --targets."
        )
    kept = list(json_lines.read(path))
    wanted = {(images, one.directions) for one in chosen}
    if not {(row["images"], row["directions"]) for row in kept} <= wanted:
        raise PlanError(
            f"Expected searches with the same --images and --directions in {path}, got others. "
            "Give another file of --results."
        )
    done = {(row["searcher"], row["defense"], row["target"], row["budget"]) for row in kept}
    for target in targets:
        for defense in defenses:
            for one in chosen:
                for budget, looks in one.runs:
                    if (one.name, defense, target, budget) in done:
                        continue
                    row = _search(one, lab, defense, target, images, budget, looks)
                    json_lines.append(path, row)
                    yield row


class _Look(NamedTuple):
    """How far a search was: its best latent, and the seconds it and its searcher had taken."""

    latent: Tensor
    seconds: float
    searcher_seconds: float


class _Looks:
    """Looks at a search after some evaluations."""

    def __init__(self, at: tuple[int, ...], searcher: "_Timed") -> None:
        self.found: dict[int, _Look] = {}
        self._at, self._searcher = at, searcher
        self._started = time.perf_counter()

    def __call__(self, progress: Progress) -> None:
        seconds = time.perf_counter() - self._started
        for budget in self._at:
            if progress.evaluations <= budget and progress.best_latent is not None:
                look = _Look(progress.best_latent, seconds, self._searcher.seconds)
                self.found[budget] = look


class _Timed:
    """A searcher whose own time is counted."""

    def __init__(self, searcher: Searcher) -> None:
        self._searcher, self.seconds = searcher, 0.0

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._searcher, name)
        if name not in ("ask", "tell", "tell_details"):
            return found

        def timed(*arguments: Any) -> Any:
            started = time.perf_counter()
            result = found(*arguments)
            self.seconds += time.perf_counter() - started
            return result

        return timed


def _search(
    one: Contestant,
    lab: Lab,
    defense: str,
    target: int,
    images: int,
    budget: int,
    looks: tuple[int, ...],
) -> dict[str, Any]:
    """Runs one search and scores what it had found at each of ``looks`` evaluations."""
    spec = TrialSpec(
        id="",
        attack="ggl",
        defense=DEFENSES[defense],
        settings=AttackSettings(),
        target=target,
        budget=budget,
        seed=0,
        images=images,
    )
    observed, _ = observe(spec, lab, target)
    knowledge = knowledge_of(spec, lab)
    objective = prepare_objective(observed, knowledge, one.settings)
    common = prepare_objective(observed, knowledge, spec.settings)
    seed = stream_seed(0, "ggl", target)
    space = space_of(
        one.settings.space,
        one.settings.space_settings,
        objective.knowledge,
        labels=objective.labels,
        seed=stream_seed(seed, "space"),
    )
    searcher = make_searcher(
        one.settings.searcher,
        dim=space.dim,
        budget=budget,
        seed=stream_seed(seed, "searcher"),
        **one.settings.searcher_settings,
    )
    timed = _Timed(searcher)
    seen = _Looks(looks, timed)
    found = run_search(
        objective,
        timed,
        space,
        budget=budget,
        population=min(searcher.preferred_population, budget),
        on_batch=seen,
    )
    best = np.fmin.accumulate(found.losses)
    points = np.unique(np.geomspace(10, budget, CURVE_POINTS).astype(int))
    return {
        "searcher": one.name,
        "defense": defense,
        "target": target,
        "images": images,
        "directions": one.directions,
        "budget": budget,
        "curve": [[int(n), float(best[n - 1])] for n in points],
        "prior": float(np.nanmedian(found.losses[:50])),
        "at": {
            str(at): {
                "loss": float(common(look.latent)[0]),
                "seconds": look.seconds,
                "searcher_share": look.searcher_seconds / look.seconds,
                **_scored(objective, look.latent, lab, target),
            }
            for at, look in seen.found.items()
        },
    }


def _scored(
    objective: GradientMatchingObjective, latent: Tensor, lab: Lab, target: int
) -> dict[str, float]:
    client = lab.private.of_client(target, len(objective.labels))
    images = assign(objective.generate(latent)[None], client.images)
    found = score(images, client, model=lab.model, head=lab.head, classifier=lab.classifier)
    return {"psnr": found.metrics["psnr"], "identified": found.hits["top1"]}
