"""From a plan to what its trials share: models, images, and the trials themselves."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import torch

from engine.attacks import AttackSettings, prepare_objective
from engine.attacks.attack import check_settings, space_to_check
from engine.attacks.candidates import check_candidates
from engine.attacks.searchers import is_white_box
from engine.attacks.spaces import PIXELS
from engine.checkpoints import file_sha256, load_weights, read_tensors
from engine.errors import InputError, PlanError
from engine.federation import Update, find_head, make_target_model
from engine.federation.captures import read_capture
from engine.federation.private_images import PrivateImages
from engine.federation.shifts import SHIFTS, shifted
from engine.generators import Generator, load_generator
from engine.plan import Plan
from engine.plan.parts import PlannedAttack
from engine.scoring.evaluation_classifier import EvaluationClassifier, load_classifier
from engine.scoring.groups import ANY_DEFENSE
from engine.scoring.metrics import SSIM_WINDOW
from engine.scoring.perceptual import load_lpips, lpips_weights
from engine.scoring.variants import CONTROLS
from engine.setups import classifier_card, part_path, private_file, private_images_of
from engine.trial import DIFFERENTIATED, client_update, knowledge_of
from engine.trial.parts import Lab, TrialSpec
from search_spaces.audit_grid import COMMON, GridPoint, audit_grid

# The controls whose figures are those of one attack.
OF_ATTACKS: Final = ("shuffled", "random_best")


def build_lab(plan: Plan, device: str = "cpu") -> Lab:
    """Loads everything the plan names, and checks that it fits together.

    Raises:
        InputError: For a file that is missing, unsafe, damaged, or does not fit the others.
        PlanError: For more targets than there are images or captures, or too few for a control.
    """
    place = torch.device(device)
    generator = load_generator(
        _path(plan, plan.generator.weights, "generator"), sha256=plan.generator.sha256
    )
    private = shifted(_private_images(plan), plan.shift, generator.image_shape)
    classifier = load_classifier(
        _path(plan, plan.classifier.weights, "classifier"),
        sha256=plan.classifier.sha256,
        card=classifier_card(plan.classifier.weights),
    )
    _check_fit(plan, generator, private, classifier)
    if plan.captures:
        private = private.first(len(plan.captures) * plan.client.images)
    _check_targets(plan, available=len(private.images))
    model = make_target_model(
        plan.target_model.name,
        image_shape=generator.image_shape,
        classes=generator.classes,
        seed=plan.target_model.seed,
    )
    if plan.target_model.weights is not None:
        path = _path(plan, plan.target_model.weights, plan.target_model.name)
        tensors = read_tensors(path, sha256=plan.target_model.sha256)
        load_weights(model, tensors, source=str(path))
    layout = torch.channels_last if plan.generator.channels_last else torch.preserve_format
    return Lab(
        model=model.to(place),
        head=find_head(model, generator.image_shape),
        generator=generator.to(place, memory_format=layout),
        private=private.to(place),
        classifier=classifier.to(place),
        captures=tuple(read_capture(Path(path), model).to(place) for path in plan.captures),
        perceptual={
            name: metric.to(place) for name, metric in load_lpips(Path(plan.data_folder)).items()
        },
    )


def _path(plan: Plan, reference: str, part: str) -> Path:
    return part_path(reference, part, plan.data_folder)


def _held(plan: Plan) -> str:
    """Returns what the clients' images are of: the data, or another data set."""
    return plan.data if plan.shift is None or plan.shift in SHIFTS else plan.shift


def _private_images(plan: Plan) -> PrivateImages:
    clients = max(plan.targets, len(plan.captures), 2 if "shuffled" in plan.controls else 1)
    return private_images_of(_held(plan), plan.data_folder, needed=clients * plan.client.images)


def input_hashes(plan: Plan) -> dict[str, str]:
    """Returns the SHA-256 of every file the plan reads, by what it is.

    Of private images that are chosen from a data set, it is that of those images; of a file that is
    gone, it is empty.
    """
    files = {
        "private_images": private_file(_held(plan)),
        "generator": _path(plan, plan.generator.weights, "generator"),
        "classifier": _path(plan, plan.classifier.weights, "classifier"),
    }
    if plan.target_model.weights is not None:
        model = plan.target_model
        files["target_model"] = _path(plan, plan.target_model.weights, model.name)
    files |= {f"capture {index}": Path(path) for index, path in enumerate(plan.captures)}
    files |= {f"lpips {name}": path for name, path in lpips_weights(Path(plan.data_folder)).items()}
    return {
        name: _private_images(plan).sha256() if path is None else _hash(path)
        for name, path in files.items()
    }


def _hash(path: Path) -> str:
    return file_sha256(path) if path.is_file() else ""


def check_plan(plan: Plan) -> Lab:
    """Builds everything once in this process, so that a plan fails before any work is spent."""
    lab = build_lab(plan)
    _check_searchers(plan, lab)
    for attack in plan.lineup():
        if attack.settings.label_inference == "bias" and not lab.head.has_bias:
            raise PlanError(
                f"{attack.key}: "
                * bool(attack.key)
                + f"Expected a bias in the target model's last layer {lab.head.name!r} for "
                "label_inference: bias, got none. Use label_inference: row_sum."
            )
    matching_paths(plan, lab)
    _check_local_steps(plan, lab)
    return lab


def _check_searchers(plan: Plan, lab: Lab) -> None:
    """Raises a PlanError that says of every searcher that cannot search so, why."""
    knowledge = knowledge_of(trial_specs(plan)[0], lab)
    problems = []
    for attack in plan.lineup():
        try:
            check_settings(attack.settings, knowledge, budget=attack.budget)
            if plan.compute.fan_out == "candidates":
                check_candidates(attack.settings, space_to_check(attack.settings, knowledge))
        except PlanError as error:
            problems.append(f"{attack.key}: {error}" if attack.key else str(error))
    if problems:
        raise PlanError("\n".join(problems))


def matching_paths(plan: Plan, lab: Lab) -> dict[str, str]:
    """Returns how candidates will be compared with observed updates, in words, by defense.

    Seen on the first client's update before its defenses: cheap, and no path depends on more.

    Raises:
        InputError: If the generator's images are not in [0, 1].
        UnsupportedModelError: If no update of the target model can be computed.
    """
    first: dict[str, dict[str, TrialSpec]] = {}
    for spec in trial_specs(plan):
        if spec.attack not in CONTROLS:
            first.setdefault(spec.defense_label, {}).setdefault(spec.attack, spec)
    some = next(iter(first.values()))
    update = client_update(next(iter(some.values())), lab, 0)
    return {
        label: _told_apart({name: matching_of(spec, lab, update) for name, spec in attacks.items()})
        for label, attacks in first.items()
    }


def matching_of(spec: TrialSpec, lab: Lab, update: Update) -> str:
    """Returns how a trial's candidates are compared, in words."""
    objective = prepare_objective(update, knowledge_of(spec, lab), spec.settings)
    return DIFFERENTIATED if is_white_box(spec.settings.searcher) else objective.path


def _told_apart(paths: Mapping[str, str]) -> str:
    """Returns the paths of attacks in words; each with its attacks where they differ."""
    by_path: dict[str, list[str]] = {}
    for name, path in paths.items():
        by_path.setdefault(path, []).append(name)
    if len(by_path) == 1:
        return next(iter(by_path))
    return "; ".join(f"{path} ({', '.join(names)})" for path, names in by_path.items())


def trial_specs(plan: Plan) -> list[TrialSpec]:
    """Returns the trials of an audit, in the order they run."""
    chains = [tuple((part.name, part.settings()) for part in chain) for chain in plan.defenses]
    attacks, seeds = plan.lineup(), plan.all_seeds()
    if plan.compute.fan_out == "candidates":
        # Of Tune's algorithms most have no use for a choice among labels.
        attacks = tuple(attack.with_settings(label_hypotheses=1) for attack in attacks)
    points = audit_grid(
        targets=plan.targets,
        defenses=len(chains),
        attacks=len(attacks),
        controls=plan.controls,
        seeds=seeds,
    )
    return [
        TrialSpec(
            id=_trial_id(point, attacks, seeds=len(seeds)),
            attack=point.control or attacks[point.attack].name,
            of=_attack_of(point, attacks).name if point.control in OF_ATTACKS else "",
            defense=(("none", {}),) if point.control == "oracle" else chains[point.defense],
            settings=_settings_of(point, attacks),
            target=point.target,
            budget=_attack_of(point, attacks).budget,
            seed=point.seed,
            captured=bool(plan.captures) and _is_captured(plan, point.defense),
            images=plan.client.images,
            training=plan.client.training(),
            precision=plan.generator.precision,
        )
        for point in points
    ]


def _attack_of(point: GridPoint, attacks: Sequence[PlannedAttack]) -> PlannedAttack:
    """Returns the attack of a point; that beside which controls common to all run.

    They are of the generator, so they run beside the first attack that has one.
    """
    if point.control in COMMON:
        return next((one for one in attacks if one.settings.space != PIXELS), attacks[0])
    return attacks[point.attack]


def _settings_of(point: GridPoint, attacks: Sequence[PlannedAttack]) -> AttackSettings:
    settings = _attack_of(point, attacks).settings
    return settings.with_searcher("random") if point.control == "random_best" else settings


def _trial_id(point: GridPoint, attacks: Sequence[PlannedAttack], *, seeds: int) -> str:
    """Returns what a trial is called; attack, searcher and seed are named where there are several.

    A searcher is named by its place among those of the attack.
    """
    where = ANY_DEFENSE if point.control == "oracle" else f"defense{point.defense}"
    name = attacks[point.attack].name
    alike = [place for place, one in enumerate(attacks) if one.name == name]
    parts = [where, point.control or name]
    if point.control == "shuffled" and len(alike) < len(attacks):
        parts.append(name)
    parts.append(f"target{point.target}")
    if len(alike) > 1 and point.control not in COMMON:
        parts.append(f"searcher{alike.index(point.attack)}")
    if seeds > 1:
        parts.append(f"seed{point.seed}")
    return "-".join(parts)


def _check_local_steps(plan: Plan, lab: Lab) -> None:
    """Raises a PlanError if the clients' training leaves the finite numbers."""
    if plan.client.local_steps == 1:
        return
    update = client_update(trial_specs(plan)[0], lab, 0)
    if not bool(update.l2_norms().isfinite().all()):
        raise PlanError(
            f"Expected a finite update after {plan.client.local_steps} local steps, got one that "
            f"grew out of bounds at client.learning_rate: {plan.client.learning_rate:g}. Lower it."
        )


def _is_captured(plan: Plan, defense: int) -> bool:
    """Whether the captures went through this defense; ``none`` beside it is simulated."""
    return len(plan.defenses) == 1 or plan.defenses[defense][0].name != "none"


def _check_fit(
    plan: Plan, generator: Generator, private: PrivateImages, classifier: EvaluationClassifier
) -> None:
    """Raises an AuditError unless the plan's parts fit one another."""
    if classifier.image_shape != generator.image_shape or generator.image_shape[1] < SSIM_WINDOW:
        raise InputError(
            f"Expected a generator and an evaluation classifier of one image shape, at least "
            f"{SSIM_WINDOW} pixels high, got {generator.image_shape} and {classifier.image_shape}."
        )
    shape = tuple(private.images.shape[1:])
    if shape != generator.image_shape:
        raise InputError(
            f"Expected private images of the generator's shape {generator.image_shape}, "
            f"got {shape}. Use data and a generator of one image size and colour."
        )
    if int(private.labels.max()) >= generator.classes:
        raise InputError(
            f"Expected private images of the generator's {generator.classes} classes, "
            f"got a label {int(private.labels.max())}."
        )
    behind = len(plan.captures) * plan.client.images
    if behind > len(private.images):
        each = (
            "a private image" if plan.client.images == 1 else f"{plan.client.images} private images"
        )
        raise InputError(
            f"Expected {each} for each of {len(plan.captures)} captures, "
            f"got {len(private.images)}. Add images to the data, or leave captures out."
        )
    for label in {int(label) for label in private.labels[: plan.targets * plan.client.images]}:
        if not len(private.distractors_of(label)):
            raise InputError(
                f"Expected distractors of class {label} to tell its images from, got none. "
                "Add some to the private images' distractor_images."
            )


def _check_targets(plan: Plan, *, available: int) -> None:
    """Raises a PlanError unless ``available`` private images are enough for the plan's clients."""
    each = plan.client.images
    clients = available // each
    if not clients:
        raise PlanError(
            f"Expected at most {available} images a client, as many as there are private images in "
            f"the data, got client.images: {each}. Lower client.images."
        )
    held = "captures" if plan.captures else "private images in the data"
    if each > 1 and not plan.captures:
        held = f"clients of {each} images in the data's {available}"
    if plan.targets > clients:
        raise PlanError(
            f"Expected at most {clients} targets, as many as there are {held}, "
            f"got targets: {plan.targets}. Lower targets."
        )
    if "shuffled" in plan.controls and clients < 2:
        raise PlanError(
            f"Expected at least {2 * each} private images for the shuffled control, "
            f"got {available}. Add another client's, or leave shuffled out of controls."
        )
