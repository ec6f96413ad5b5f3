"""The threat card: what an audit's attacker knows and does, in words."""

from collections.abc import Sequence

from engine.attacks import AttackSettings
from engine.attacks.searchers import is_white_box
from engine.attacks.spaces import label_space
from engine.plan import Plan
from engine.plan_parts import ClientPlan, GeneratorPlan


def threat_card(plan: Plan) -> list[dict[str, str]]:
    """Returns what the attacker knows and does, row by row, for the report."""
    every = plan.attack.settings()
    settings, searchers = every[0], [own.searcher for own in every]
    model = plan.target_model
    weights = f"trained, {model.weights}" if model.weights else f"untrained, seed {model.seed}"
    rows = {
        "Adversary": "an honest-but-curious server: it follows the protocol and reads one update",
        "Observes": f"one client's update after its defenses: {_describe_training(plan.client)}",
        "Target model": f"known: {model.name} ({weights}), in evaluation mode",
        "Prior": f"a generator of public images: {_describe_generator(plan.generator)}",
        "Label": _describe_labels(plan, settings),
        "Defense": "its kind is known, its parameters are estimated from the observed update",
        "Search": f"{', '.join(searchers)} in the space "
        f"{label_space(settings.space, settings.space_settings)}, {plan.attack.budget} candidate "
        f"evaluations{' each' if len(searchers) > 1 else ''}, preset {plan.attack.preset}, "
        f"{_describe_access(searchers)}",
        "Loss": _describe_loss(settings),
        "Chooses by": "matching loss alone; no private image and no metric reaches the attack",
    }
    return [{"what": what, "how": how} for what, how in rows.items()]


def _describe_access(searchers: Sequence[str]) -> str:
    white_box = [name for name in searchers if is_white_box(name)]
    if not white_box:
        return "gradient-free"
    described = "white-box: along gradients through the generator and the target model"
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
    if settings.regulariser == "none":
        return settings.distance
    return f"{settings.distance} + {settings.regulariser} (weight {settings.regulariser_weight})"


def _describe_generator(generator: GeneratorPlan) -> str:
    layout = ", channels last" if generator.channels_last else ""
    return f"{generator.weights}, in {generator.precision}{layout}"


def _describe_labels(plan: Plan, settings: AttackSettings) -> str:
    inferred = f"not known; inferred from the update ({settings.label_inference})"
    if settings.label_hypotheses == 1 or plan.compute.fan_out == "candidates":
        return inferred
    return f"{inferred}, up to {settings.label_hypotheses} hypotheses searched where it is unsure"
