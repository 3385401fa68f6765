"""A training as a child process of the server: progress and errors as lines of JSON on standard output.

    python -m backend.server.training_process NAME

The request lies in the folder of its name (``backend.recipes.featurizer_folder``), where state and result go too. A
server that is killed closes the pipe: the child ends at its next word, and the next server starts another, which goes
on from the checkpoint.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from typing import Any

from backend.core.errors import AtlasError
from backend.recipes.featurizer_folder import RunFolder


def main(argv: list[str] | None = None) -> int:
    """Carry out one training; returns the exit code."""
    (name,) = sys.argv[1:] if argv is None else argv
    out = sys.stdout

    def say(**what: Any) -> None:
        print(json.dumps(what), file=out, flush=True)

    try:
        run = RunFolder.named(name)
        request = run.request
        if not run.out.exists():
            run.write(state="running", stage="reading", message="starting")
        say(progress=0.0, message="starting")
        with contextlib.redirect_stdout(sys.stderr):
            from backend.recipes.featurizer import carry_out

            carry_out(request, say=lambda told: say(progress=told["progress"], message=_line(told)))
    except AtlasError as error:
        say(error={"error": type(error).__name__, "asked": error.asked, "true": error.true, "todo": error.todo})
        return 1
    except BrokenPipeError:
        # Nobody listens; what is on disk is what the next process goes on from.
        os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())
        return 0
    return 0


def _line(told: dict[str, Any]) -> str:
    """Stage and numbers in one line."""
    return f"{told['stage']}: {told.get('message', '')}".rstrip(": ")


if __name__ == "__main__":
    sys.exit(main())
