"""A study as a child process of the server: progress and errors as lines of JSON on standard output.

    python -m backend.server.study_process NAME --scale small --seed 0

The findings are stored in the catalogue by ``run_study`` itself. What the study prints goes to standard error.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys

from backend.core.errors import AtlasError


def main(argv: list[str] | None = None) -> int:
    """Run one study; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("--scale", default="small")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(argv)
    out = sys.stdout

    def say(**what) -> None:
        print(json.dumps(what), file=out, flush=True)

    try:
        say(progress=0.0, message="loading the study")
        with contextlib.redirect_stdout(sys.stderr):
            from backend.studies.base import run_study

            result = run_study(
                given.name, given.scale, given.seed,
                progress=lambda fraction, message: say(progress=fraction, message=message),
            )  # fmt: skip
    except AtlasError as error:
        say(error={"error": type(error).__name__, "asked": error.asked, "true": error.true, "todo": error.todo})
        return 1
    say(progress=1.0, message=f"{len(result.findings)} findings")
    return 0


if __name__ == "__main__":
    sys.exit(main())
