"""Reads a Dockerfile into stages and steps: what `docker build` would do, and in which order."""

import re
from dataclasses import dataclass, field
from pathlib import Path

# Of what Docker knows; a step of another kind is refused, so that none is overlooked.
INSTRUCTIONS = frozenset(
    ("ARG", "CMD", "COPY", "ENV", "FROM", "RUN", "SHELL", "USER", "WORKDIR"),
)


@dataclass(frozen=True)
class Step:
    """One instruction, its continued lines joined as Docker joins them."""

    instruction: str
    value: str
    line: int


@dataclass(frozen=True)
class Stage:
    """What follows one FROM, up to the next."""

    base: str
    name: str
    steps: list[Step] = field(default_factory=list)


def read(path: Path) -> tuple[list[Step], list[Stage]]:
    """Returns the steps before the first FROM, and the stages."""
    preamble, stages = [], []
    for step in _steps(path.read_text("utf-8")):
        if step.instruction == "FROM":
            base, name = re.fullmatch(r"(\S+)(?: AS (\S+))?", step.value).groups()
            stages.append(Stage(base, name or str(len(stages))))
        else:
            (stages[-1].steps if stages else preamble).append(step)
    return preamble, stages


def expand(text: str, variables: dict[str, str]) -> str:
    """Fills in ``$NAME`` and ``${NAME}`` as Docker does outside of RUN; unknown ones are empty."""
    return re.sub(r"\$(?:\{(\w+)\}|(\w+))", lambda m: variables.get(m[1] or m[2], ""), text)


def assignments(value: str, variables: dict[str, str]) -> dict[str, str]:
    """The variables that an ENV sets."""
    found = re.findall(r"(\w+)=(\S+)", value)
    return {name: expand(text, variables) for name, text in found}


def _steps(text):
    lines = enumerate(text.splitlines(), start=1)
    for number, line in lines:
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        joined = line
        while joined.endswith("\\"):
            _, more = next(lines)
            if not more.lstrip().startswith("#"):  # Docker drops comments inside a step.
                joined = joined[:-1] + more
        instruction, value = joined.split(maxsplit=1)
        if instruction not in INSTRUCTIONS or "<<" in value.replace("<<<", ""):
            raise ValueError(f"Line {number}: this reader does not know {joined!r}.")
        yield Step(instruction, value.strip(), number)
