"""The threat card: what an audit's attacker knows and does, in words."""

from collections.abc import Sequence

from engine.attacks import AttackSettings
from engine.attacks.labels import JOINT
from engine.attacks.searchers import is_white_box
from engine.attacks.spaces import PIXELS, label_space
from engine.plan import Plan
from engine.plan.parts import ClientPlan, GeneratorPlan, PlannedAttack


def threat_card(plan: Plan) -> list[dict[str, str]]:
    """Returns what the attacker knows and does, row by row, for the report."""
    by_name: dict[str, list[PlannedAttack]] = {}
    for attack in plan.lineup():
        by_name.setdefault(attack.name, []).append(attack)
    model = plan.target_model
    weights = f"trained, {model.weights}" if model.weights else f"untrained, seed {model.seed}"
    rows = {
        "Adversary": "an honest-but-curious server: it follows the protocol and reads one update",
        "Observes": f"one client's update after its defenses: {_describe_training(plan.client)}",
        **({"Images": f"{plan.shift}: not those the generator was made for"} if plan.shift else {}),
        "Target model": f"known: {model.name} ({weights}), in evaluation mode",
    }
    described = {name: _describe_attack(plan, attacks) for name, attacks in by_name.items()}
    if len(described) == 1:
        [rows_of_attack] = described.values()
        rows |= rows_of_attack
    else:
        rows |= {
            f"Attack {name}": "; ".join(f"{what.lower()}: {how}" for what, how in rows_of.items())
            for name, rows_of in described.items()
        }
    rows["Chooses by"] = "matching loss alone; no private image and no metric reaches the attack"
    return [{"what": what, "how": how} for what, how in rows.items()]


def _describe_attack(plan: Plan, attacks: Sequence[PlannedAttack]) -> dict[str, str]:
    """Returns what one attack knows and does, whichever of its searchers searches."""
    settings, budget = attacks[0].settings, attacks[0].budget
    searchers = [attack.settings.searcher for attack in attacks]
    return {
        "Prior": _describe_prior(plan, settings),
        "Label": _describe_labels(plan, settings),
        "Defense": "its kind is known, its parameters are estimated from the observed update"
        if settings.adaptive
        else "not known, and not imitated",
        "Search": f"{', '.join(searchers)} in the space "
        f"{label_space(settings.space, settings.space_settings)}, {budget} candidate "
        f"evaluations{' each' if len(searchers) > 1 else ''}, "
        f"{_describe_access(searchers, settings.space)}",
        "Loss": _describe_loss(settings),
    }


def _describe_prior(plan: Plan, settings: AttackSettings) -> str:
    if settings.space == PIXELS:
        return "none, pixels are searched"
    return f"a generator of public images: {_describe_generator(plan.generator)}"


def _describe_access(searchers: Sequence[str], space: str) -> str:
    white_box = [name for name in searchers if is_white_box(name)]
    if not white_box:
        return "gradient-free"
    through = "the target model" if space == PIXELS else "the generator and the target model"
    described = f"white-box: along gradients through {through}"
    if len(white_box) == len(searchers):
        return described
    return f"gradient-free but for {', '.join(white_box)}, {described}"


def _describe_training(client: ClientPlan) -> str:
    kind = "FedSGD, one gradient"
    if client.local_steps > 1:
        kind = f"FedAvg, {client.local_steps} local steps of learning rate {client.learning_rate:g}"
    return (
        f"{kind}, batch of {client.images}; both are known, since the server prescribes the "
        "training and clients report how many images they trained on"
    )


def _describe_loss(settings: AttackSettings) -> str:
    parts = [settings.distance]
    if settings.regulariser != "none":
        parts.append(f"{settings.regulariser} (weight {settings.regulariser_weight})")
    parts += [f"{name} (weight {weight:g})" for name, weight in settings.image_priors.items()]
    return " + ".join(parts)


def _describe_generator(generator: GeneratorPlan) -> str:
    layout = ", channels last" if generator.channels_last else ""
    return f"{generator.weights}, in {generator.precision}{layout}"


def _describe_labels(plan: Plan, settings: AttackSettings) -> str:
    if settings.label_inference == JOINT:
        return "not known, searched with the images"
    inferred = f"not known; inferred from the update ({settings.label_inference})"
    if settings.label_hypotheses == 1 or plan.compute.fan_out == "candidates":
        return inferred
    return f"{inferred}, up to {settings.label_hypotheses} hypotheses searched where it is unsure"
