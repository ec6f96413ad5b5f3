"""A small audit as it is written to ``summary.json``: two defenses, three targets."""

import copy

import numpy as np
import pytest

DEFENSES = ("none", "sparsification(percent=90)")
TARGETS = (0, 1, 2)
PSNR = {
    ("none", "ggl"): 16.91,
    ("none", "prior_only"): 10.42,
    ("none", "shuffled"): 10.13,
    ("none", "random_best"): 13.37,
    ("sparsification(percent=90)", "ggl"): 14.58,
    ("sparsification(percent=90)", "prior_only"): 10.47,
    ("sparsification(percent=90)", "shuffled"): 10.21,
    ("sparsification(percent=90)", "random_best"): 12.76,
    ("any", "oracle"): 21.64,
}


def _trace(final: float, scale: float, target: int) -> list[list[float]]:
    rows = []
    for step in range(20):
        left = 0.86**step
        rows.append(
            [
                1 + 50 * step,
                scale * (0.04 + left) * (1 + 0.2 * target),
                final - (final - 9.5 - target) * left,
            ]
        )
    return rows


def _trial(defense: str, attack: str, target: int) -> dict:
    psnr = PSNR[defense, attack] + (-1.3, 0.2, 1.1)[target]
    searches = attack not in ("prior_only", "oracle")
    scale = 0.5 if defense == "none" else 7.0
    return {
        "id": f"{defense.split('(')[0]}-{attack}-{target}",
        "defense": defense,
        "attack": attack,
        "of": "ggl" if attack == "shuffled" else None,
        "searcher": "nevergrad:DiagonalCMA" if searches else "",
        "by": "nevergrad:DiagonalCMA" if attack in ("ggl", "shuffled") else None,
        "target": target,
        "seed": 0,
        "loss": 0.031 if searches else None,
        "evaluations": 1000 if searches else 0,
        "nonfinite": 0,
        "wall_s": 1.6,
        "candidates_per_s": 610.0 if searches else None,
        "labels": [4],
        "inferred_labels": [4],
        "imitation": "the largest 10 % of entries kept" if defense != "none" else "",
        "matching": "kernels" if searches else "",
        "population": 28 if searches else 0,
        "chunk_size": 28 if searches else 0,
        "defense_change": 0.314 if defense != "none" else 0.0,
        "among": 100,
        "metrics": {
            "mse": 10 ** (-psnr / 10),
            "psnr": psnr,
            "ssim": 0.41,
            "mse_r": 0.012,
            "feature_distance": 5.27,
            "label_accuracy": 1.0,
        },
        "hits": {"top1": 0.0, "top5": 1.0, "top1_features": 0.0, "top5_features": 1.0},
        "trace": _trace(psnr, scale, target) if searches else [],
    }


def _group(defense: str, attack: str) -> dict:
    psnr = PSNR[defense, attack]
    floor, ceiling = PSNR[defense if defense != "any" else "none", "prior_only"], 21.64
    leakage = (psnr - floor) / (ceiling - floor)
    return {
        "defense": defense,
        "attack": attack,
        "searcher": "nevergrad:DiagonalCMA" if attack not in ("prior_only", "oracle") else "",
        "by": "nevergrad:DiagonalCMA" if attack in ("ggl", "shuffled") else None,
        "n": 3,
        "metrics": {
            "psnr": {"mean": psnr, "low": psnr - 1.2, "high": psnr + 1.4, "worst": psnr + 1.1},
            "ssim": {"mean": 0.412, "low": 0.331, "high": 0.498, "worst": 0.537},
            "mse": {"mean": 0.0217, "low": 0.0151, "high": 0.0289, "worst": 0.0126},
            "mse_r": {"mean": 0.0123, "low": 0.0088, "high": 0.0171, "worst": 0.0067},
            "feature_distance": {"mean": 5.27, "low": 4.61, "high": 5.93, "worst": 4.18},
            "label_accuracy": {"mean": 1.0, "low": 1.0, "high": 1.0, "worst": 1.0},
        },
        "leakage_fraction": {"mean": leakage, "low": leakage - 0.09, "high": leakage + 0.11},
        "identification": {
            "top1": 0.333,
            "top5": 0.667,
            "among": 100,
            "chance": 0.01,
            "low": 0.06,
            "high": 0.79,
            "space": "pixels",
            "features_top1": 0.25,
            "features_top5": 0.75,
        },
        "defense_change": 0.314 if defense.startswith("spars") else 0.0,
        "evaluations": 1000,
        "wall_s": 1.6,
    }


SUMMARY = {
    "schema_version": 1,
    "verdict": {
        "status": "leaks",
        "sentence": "With no defense, updates leak 58 % of what this generator can draw of the "
        "clients' images; sparsification lowers it to 37 %, three images being too few to say "
        "more.",
        "defenses": [
            {
                "defense": "none",
                "by": "nevergrad:DiagonalCMA",
                "status": "leaks",
                "sentence": "The attack is above the floor and above both controls.",
            },
            {
                "defense": "sparsification(percent=90)",
                "by": "nevergrad:DiagonalCMA",
                "status": "inconclusive",
                "sentence": "Above the floor, but three images are too few for a claim.",
            },
        ],
    },
    "plan": {
        "name": "example",
        "budget": 1000,
        "client": {"images": 1, "local_steps": 1},
        "images": {"report": False},
    },
    "threat": [
        {"what": "Role", "how": "An honest-but-curious server: it follows the protocol."},
        {"what": "Target model", "how": "Its architecture and the weights the client received."},
        {"what": "Observed update", "how": "One update of one image (batch 1), after the defense."},
        {"what": "Generator", "how": "Trained on public images; queried without gradients."},
        {"what": "Defense", "how": "Its kind; its strength is estimated from the update."},
        {"what": "Budget", "how": "1000 candidate evaluations for each image."},
    ],
    "provenance": {
        "commit": "0123456789abcdef",
        "packages": {"torch": "2.10.0", "nevergrad": "1.0.12"},
        "weights": {"generator": "sha256:5f1c"},
        "seeds": [0],
        "machine": None,
    },
    "failed": [],
    "trials": [_trial(*pair, target) for pair in PSNR for target in TARGETS],
    "groups": [_group(*pair) for pair in PSNR],
}


@pytest.fixture
def summary() -> dict:
    return copy.deepcopy(SUMMARY)


def make_images() -> dict[str, np.ndarray]:
    """Returns smooth coloured blobs, and the blobs blurred by noise as reconstructions.

    One image a client, ``(1, 3, 32, 32)`` each.
    """
    rng = np.random.default_rng(7)
    height, width = np.mgrid[0:1:32j, 0:1:32j]
    images = {}
    for target in TARGETS:
        centre = rng.uniform(0.3, 0.7, size=(3, 2, 1, 1))
        blob = np.exp(-8 * ((height - centre[:, 0]) ** 2 + (width - centre[:, 1]) ** 2))
        images[f"target/{target}"] = blob[None]
        for trial in SUMMARY["trials"]:
            if trial["target"] == target:
                noise = 10 ** (-trial["metrics"]["psnr"] / 20)
                images[trial["id"]] = np.clip(blob + noise * rng.normal(size=blob.shape), 0, 1)[
                    None
                ]
    return images


def with_second_searcher(summary: dict, **psnr: float) -> None:
    """Adds trials and groups of random search, with such a PSNR by attack, on the first defense."""
    for attack, value in psnr.items():
        own = {"searcher": "random", "by": "random", "metrics": {"psnr": value}}
        summary["trials"] += [
            {**trial, **own, "id": f"{trial['id']}-random"}
            for trial in summary["trials"]
            if (trial["defense"], trial["attack"]) == ("none", attack)
        ]
        first = next(group for group in summary["groups"] if group["attack"] == attack)
        summary["groups"].append({**first, **own, "metrics": {"psnr": {"mean": value}}})
    found = {"defense": "none", "by": "random", "status": "no leak shown", "sentence": "Ok."}
    summary["verdict"]["defenses"].append(found)


def with_images_per_client(images: int, pictures: dict[str, np.ndarray]) -> tuple[dict, dict]:
    """Returns the small audit and its pictures with several images a client, ever darker."""
    summary = copy.deepcopy(SUMMARY)
    summary["plan"]["client"] = {"images": images, "local_steps": 3}
    for trial in summary["trials"]:
        trial["labels"] = trial["inferred_labels"] = [4] * images
    darker = np.linspace(1, 0.5, images)[:, None, None, None]
    return summary, {name: picture * darker for name, picture in pictures.items()}


@pytest.fixture
def images() -> dict[str, np.ndarray]:
    return make_images()
