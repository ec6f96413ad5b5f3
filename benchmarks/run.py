"""Measures what scoring, searching and spreading cost, as ratios timed side by side.

Runs with PyTorch, torchvision, safetensors and rich alone; `fanout`, and `scaling` over workers,
need Ray, and `searcher` the packages of the searchers it is asked for.
"""

import argparse
import fnmatch
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:] = [str(HERE.parent), *(path for path in sys.path if Path(path).resolve() != HERE)]

import torch  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from benchmarks import cases  # noqa: E402
from benchmarks.search_quality import DEFENSES  # noqa: E402
from engine.allocator import keep_freed_memory  # noqa: E402
from engine.determinism import repeat_sums  # noqa: E402
from engine.errors import AuditError, InfrastructureError, PlanError  # noqa: E402
from engine.precision import tensor_float  # noqa: E402
from engine.run_folder import json_lines  # noqa: E402

Results = dict[str, dict[str, Any]]
# In the order shown; the last value says whether more is better.
RATIOS = {
    "speedup_vs_sequential": ("× one at a time", True),
    "speedup_vs_vmap": ("× vmap(grad)", True),
    "cost_vs_training_step": ("training steps", False),
    "cost_vs_losses": ("× losses alone", False),
    "speedup_together": ("× search by search", True),
    "speedup_vs_float32": ("× float32", True),
    "max_image_error": ("largest image error", False),
    "searcher_share": ("searcher's share", False),
    "fanout_efficiency": ("fan-out efficiency", True),
    "throughput_vs_untracked": ("× without tracking", True),
    "throughput_vs_server": ("× with a server", True),
    "excess": ("excess of the loss", False),
    "reached_after": ("evaluations to the published 25,000", False),
    "max_relative_error": ("relative error", False),
    "max_relative_error_near_truth": ("0.001 from the truth", False),
    "sequential_relative_error_near_truth": ("there one at a time", False),
}


def main(arguments: list[str] | None = None) -> int:
    """Runs one benchmark from the command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    keep_freed_memory()  # As the workers of an audit do.
    try:
        device = _device(options.device)
        if device.type == "cuda":
            repeat_sums()  # Likewise.
        with tensor_float(False):  # For all contestants alike.
            results = options.run(options, device)
    except AuditError as error:
        print(f"Error: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    header = _header(options, device)
    if options.json:
        print(json.dumps({**header, "cases": results}, indent=1))  # noqa: T201
    else:
        _show(header, results)
    return 0


def _chosen(pattern: str, device: torch.device) -> list[str]:
    chosen = fnmatch.filter(cases.names(device), pattern)
    if not chosen:
        known = ", ".join(cases.names(device))
        raise PlanError(f"Expected --case to match one of: {known}; got {pattern!r}.")
    return chosen


def _gradients(options: argparse.Namespace, device: torch.device) -> Results:
    from benchmarks.gradients import measure_gradients

    return {
        name: measure_gradients(
            name, population=options.population, rounds=options.rounds, device=device
        )
        for name in _chosen(options.case, device)
    }


def _objective(options: argparse.Namespace, device: torch.device) -> Results:
    from benchmarks.objective import measure_objective

    return {
        name: measure_objective(
            name,
            population=options.population,
            rounds=options.rounds,
            sequential=options.sequential,
            device=device,
        )
        for name in _chosen(options.case, device)
    }


def _searcher(options: argparse.Namespace, device: torch.device) -> Results:
    from benchmarks.searcher import default_searcher, measure_searcher, objectives

    return {
        f"{place}/{name}": measure_searcher(name, objective, rounds=options.rounds, device=device)
        for place, objective in objectives(device).items()
        for name in options.searcher or [default_searcher()]
    }


def _generator(options: argparse.Namespace, device: torch.device) -> Results:
    from benchmarks.generation import measure_generators

    return measure_generators(population=options.population, rounds=options.rounds, device=device)


def _fanout(options: argparse.Namespace, device: torch.device) -> Results:
    from benchmarks.fanout import measure_fanout

    del device  # The plan says where trials run.
    _need_ray()
    return {"embedded": measure_fanout(workers=options.workers, overrides=options.set or ())}


def _scaling(options: argparse.Namespace, device: torch.device) -> Results:
    from benchmarks.scaling import measure_scaling, plot_scaling

    if not options.without_ray:
        _need_ray()
    curves = measure_scaling(
        rounds=options.rounds,
        device=device,
        most=options.most,
        with_workers=not options.without_ray,
    )
    if options.plot:
        plot_scaling(curves, options.plot)
    return {
        f"{curve} {point[curve]:,}": point for curve, points in curves.items() for point in points
    }


def _scale(options: argparse.Namespace, device: torch.device) -> Results:
    _need_ray()
    from benchmarks import scale

    del device  # Workers sleep.
    real = [
        {"workers": workers, "seconds": options.search_seconds} for workers in scale.REAL_WORKERS
    ]
    cases = scale.queue_cases(options.trial_seconds, options.patience)
    of_real = scale.in_turn(scale.measure_real, real)
    of_queues = scale.in_turn(scale.measure_queue, cases)
    if options.plot:
        scale.plot_scale(of_queues, options.plot)
    return {
        **{f"{row['workers']} real workers": row for row in of_real},
        **{f"{row['queued']:,} queued, {row['workers']} workers": row for row in of_queues},
    }


def _tracking(options: argparse.Namespace, device: torch.device) -> Results:
    _need_ray()
    from benchmarks.tracking import measure_tracking

    del device  # Workers sleep.
    return measure_tracking(rounds=options.rounds)


def _soak(options: argparse.Namespace, device: torch.device) -> Results:
    _need_ray()
    from benchmarks.soak import measure_soak

    del device  # The plan says where trials run.
    return {
        f"{options.trials:,} trials": measure_soak(trials=options.trials, workers=options.workers)
    }


def _search_quality(options: argparse.Namespace, device: torch.device) -> Results:
    from benchmarks.quality_report import claims, markdown, plot, summarise
    from benchmarks.search_quality import contestants, search_all

    del device  # Small models: processors do.
    chosen = contestants(
        options.searcher or ["*"],
        options.budget or [1_000, 5_000, 25_000],
        directions=options.directions,
    )
    targets, images = range(options.targets), options.images
    for row in search_all(chosen, targets, options.defense, options.results, images=images):
        looks = [
            f"{look['loss']:.4g} after {budget} in {look['seconds']:.1f} s"
            for budget, look in row["at"].items()
        ]
        print(  # noqa: T201
            f"{row['searcher']} behind {row['defense']}, target {row['target']}: loss "
            f"{', '.join(looks)}",
            file=sys.stderr,
        )
    rows = list(json_lines.read(options.results))
    if options.markdown:
        options.markdown.write_text(markdown(rows), encoding="utf-8")
    if options.plot:
        plot(rows, options.curves, options.plot)
    against = {f"default against {name}": row for name, row in claims(rows).items()}
    return {**summarise(rows), **against} if options.json else against


def _need_ray() -> None:
    try:
        import ray  # noqa: F401
    except ImportError as error:
        raise InfrastructureError(
            "Expected Ray, which spreads trials over workers, found none. Install leaktune with "
            "its dependencies, or ask for another benchmark (scaling takes --without-ray)."
        ) from error


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise InfrastructureError("Expected a CUDA device for --device cuda, found none.")
    return torch.device(name)


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", help="print one JSON object")
    common.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    common.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of torch")
    common.add_argument("--rounds", type=int, default=7, help="of alternating timings")
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True)

    objective = commands.add_parser("objective", parents=[common], help="scoring a population")
    objective.add_argument("--case", default="*", help="pattern, e.g. 'lenet/*'")
    objective.add_argument("--population", type=int, default=50, help="candidates at once")
    objective.add_argument(
        "--sequential", type=int, default=10, help="candidates scored one at a time, then scaled"
    )
    objective.set_defaults(run=_objective)

    gradients = commands.add_parser(
        "gradients", parents=[common], help="losses of a population with their gradients"
    )
    gradients.add_argument("--case", default="*/squared_l2", help="pattern, e.g. 'lenet/*'")
    gradients.add_argument("--population", type=int, default=16, help="candidates at once")
    gradients.set_defaults(run=_gradients)

    searcher = commands.add_parser("searcher", parents=[common], help="ask and tell")
    searcher.add_argument("--searcher", action="append", help="e.g. nevergrad:DiagonalCMA")
    searcher.set_defaults(run=_searcher)

    generator = commands.add_parser(
        "generator", parents=[common], help="images in less precision, and channels last"
    )
    generator.add_argument("--population", type=int, default=50, help="images at once")
    generator.set_defaults(run=_generator)

    fanout = commands.add_parser("fanout", parents=[common], help="an audit's workers")
    fanout.add_argument("--workers", type=int, default=2)
    fanout.add_argument("--set", action="append", help="override a key of the embedded plan")
    fanout.set_defaults(run=_fanout)

    scale = commands.add_parser(
        "scale", parents=[common], help="trials queued and workers at once, with sleep for searches"
    )
    scale.add_argument(
        "--search-seconds", type=float, default=15, help="sleep of a real worker's search"
    )
    scale.add_argument("--trial-seconds", type=float, default=1, help="sleep of a stand-in's trial")
    scale.add_argument(
        "--patience", type=float, default=20, help="seconds of work of each audit of stand-ins"
    )
    scale.add_argument("--plot", type=Path, help="draw the queues to this file")
    scale.set_defaults(run=_scale)

    tracking = commands.add_parser(
        "tracking", parents=[common], help="an audit's throughput with MLflow well, down and silent"
    )
    tracking.set_defaults(run=_tracking)

    soak = commands.add_parser("soak", parents=[common], help="memory and files of a long audit")
    soak.add_argument("--trials", type=int, default=2000)
    soak.add_argument("--workers", type=int, default=2)
    soak.set_defaults(run=_soak)

    quality = commands.add_parser(
        "search-quality",
        parents=[common],
        help="what searches reach at equal budgets; go on with the same command after a stop",
    )
    quality.add_argument("--searcher", action="append", help="pattern, e.g. 'nevergrad:*', 'ggl*'")
    quality.add_argument("--budget", action="append", type=int, help="1000, 5000 and 25000")
    quality.add_argument("--targets", type=int, default=20)
    quality.add_argument("--defense", nargs="+", default=list(DEFENSES), choices=list(DEFENSES))
    quality.add_argument("--images", type=int, default=1, help="private images of a client")
    quality.add_argument("--directions", type=int, help="principal ones, of an image, to search")
    quality.add_argument(
        "--results",
        type=Path,
        default=Path("search-quality.jsonl"),
        help="one file for each way to search",
    )
    quality.add_argument("--markdown", type=Path, help="file for tables of all searchers")
    quality.add_argument("--plot", type=Path, help="PNG to draw the curves in")
    quality.add_argument("--curves", nargs="+", default=["gauss_newton", "sepcma", "ggl", "random"])
    quality.set_defaults(run=_search_quality)

    scaling = commands.add_parser("scaling", parents=[common], help="growth of the cost")
    scaling.add_argument("--most", type=int, default=512, help="largest population and width")
    scaling.add_argument("--without-ray", action="store_true", help="leave the workers out")
    scaling.add_argument("--plot", type=Path, help="PNG to draw the curves in")
    scaling.set_defaults(run=_scaling)
    return parser


def _header(options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Returns what the figures were measured on."""
    return {
        "machine": _processor() if device.type == "cpu" else torch.cuda.get_device_name(device),
        "threads": options.threads,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": _commit(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor())


def _commit() -> str | None:
    command = ["git", "-C", str(HERE), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(  # noqa: S603
            command, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _show(header: Mapping[str, Any], results: Results) -> None:
    """Prints a table: every ratio, and beside it what was aimed at and whether it was met."""
    table = Table(caption=", ".join(f"{key} {value}" for key, value in header.items()))
    table.add_column("case")
    shown = [key for key in RATIOS if any(key in row for row in results.values())]
    rates = [
        key
        for key in ("candidates_per_s", "evaluations_per_s")
        if any(key in row for row in results.values())
    ]
    for key in shown:
        table.add_column(RATIOS[key][0], justify="right")
    for key in rates:
        table.add_column(key.replace("_per_s", "/s"), justify="right")
    for name, row in results.items():
        cells = [_cell(key, row) for key in shown]
        table.add_row(name, *cells, *(f"{row.get(key, float('nan')):,.0f}" for key in rates))
    Console().print(table)


def _cell(key: str, row: Mapping[str, Any]) -> str:
    if key not in row:
        return ""
    value = row[key]
    text = f"{value:.1e}" if "error" in key else f"{value:.3g}"
    aim = row.get("targets", {}).get(key)
    if aim is None:
        return text
    more = RATIOS[key][1]
    met = value >= aim if more else value <= aim
    style = "green" if met else "yellow"
    return f"[{style}]{text}[/] ({'≥' if more else '≤'} {aim:g})"


if __name__ == "__main__":
    sys.exit(main())
