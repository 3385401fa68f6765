"""Run the stand-in: ``python tests/app/fake_backend PORT``."""

import sys
from pathlib import Path

import uvicorn

# A folder that is run is no package yet.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from fake_backend import make_app  # noqa: E402

uvicorn.run(make_app(), host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
