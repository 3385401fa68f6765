"""``python -m backend.server``: the backend on ``ATLAS_BACKEND_PORT`` and ``ATLAS_HOST`` (unset: this machine only)."""

from __future__ import annotations

import logging
import os
import socket
import sys

from backend.core.errors import Refused
from backend.core.settings import backend_port


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; raises ``Refused`` where the port is taken or not allowed."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    taken = socket.socket(family, socket.SOCK_STREAM)
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        taken.bind((host, port))
    except OSError as error:
        taken.close()
        raise Refused(
            f"The backend was to listen on {host}, port {port}.",
            f"That is not possible: {error.strerror or error}.",
            f"Stop the program that uses it, or choose another port: ATLAS_BACKEND_PORT={port + 10}",
        ) from error
    taken.set_inheritable(True)
    return taken


def main() -> int:
    """Serve until interrupted; returns the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        listener = bind(os.environ.get("ATLAS_HOST") or "127.0.0.1", backend_port())
    except Refused as error:
        print(error, file=sys.stderr)
        return 1
    import uvicorn

    from backend.server.app import create_app

    config = uvicorn.Config(create_app(), log_level="info", access_log=False, timeout_graceful_shutdown=3)
    uvicorn.Server(config).run(sockets=[listener])
    return 0


if __name__ == "__main__":
    sys.exit(main())
