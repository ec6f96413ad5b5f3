"""The launcher: ``ray submit`` uploads this one file, so it does nothing but start leaktune.

Run as a script it has its own folder first on ``sys.path``, where our modules would shadow others
of the same name; it takes that folder off and imports the installed package.
"""

import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))


def start() -> None:
    """Starts the command line, or says how to install what is missing."""
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or os.curdir) != HERE]
    try:
        from engine.cli import main
    except ImportError as error:
        sys.exit(
            f"leaktune is not installed for {sys.executable} ({error}).\n"
            "Install it on every node, e.g. with `pip install .` in its source tree or with the "
            "image its Dockerfile builds; this file alone is only its launcher."
        )
    main()


if __name__ == "__main__":
    start()
