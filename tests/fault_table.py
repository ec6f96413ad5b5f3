"""What the tests that bring faults about have found, from the files pytest writes for JUnit.

    uv run pytest -n 2 -m fault --junitxml build/faults.xml  # As `make faults` does.
    uv run python -m tests.fault_table build/*.xml

A test says by ``pytest.mark.fault`` which fault it brings about, and how often, and by the property
``seconds`` how long it took each time until what the fault broke off went on.
"""

import statistics
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

HEAD = "| fault | tries | survived | seconds: median | longest |\n|---|---|---|---|---|"


@dataclass
class Found:
    """Of one fault: how often it was brought about and survived, and seconds until all went on."""

    tries: int = 0
    survived: int = 0
    seconds: list[float] = field(default_factory=list)

    def row(self, fault):
        seconds = self.seconds
        figures = [f"{of(seconds):.1f}" if seconds else "" for of in (statistics.median, max)]
        return f"| {' | '.join([fault, f'{self.tries:,}', f'{self.survived:,}', *figures])} |"


def found_in(paths):
    """Adds up all tests of all files, by fault; those that were skipped tried nothing."""
    faults = defaultdict(Found)
    for case in (case for path in paths for case in ElementTree.parse(path).iter("testcase")):
        properties = [(p.get("name"), p.get("value")) for p in case.iter("property")]
        said = dict(properties)
        if "fault" not in said or case.find("skipped") is not None:
            continue
        fault = faults[said["fault"]]
        fault.tries += int(said["tries"])
        if case.find("failure") is None and case.find("error") is None:
            fault.survived += int(said["tries"])
        fault.seconds += [float(value) for name, value in properties if name == "seconds"]
    return faults


if __name__ == "__main__":
    rows = [found.row(fault) for fault, found in sorted(found_in(map(Path, sys.argv[1:])).items())]
    sys.stdout.write("\n".join([HEAD, *rows, ""]))
