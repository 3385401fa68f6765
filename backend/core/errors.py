"""The errors of Manifold Atlas.

    AtlasError
    ├── NotFound        a name that the catalogue, a model or a job list does not hold
    ├── Refused         a request that is understood and must not be carried out (no intervention point, over budget)
    ├── Invalid         a value outside what is allowed
    ├── Corrupt         a file on disk that does not say what its card says
    ├── Superseded      a newer value of the same canvas arrived first
    └── Cancelled       the job was cancelled

Each message says what was asked, what is true, and what to do.
"""

from __future__ import annotations


class AtlasError(Exception):
    """Base of every error that a user may read.

    ``asked``, ``true`` and ``todo`` are whole sentences; the server sends them as fields of their own.
    """

    status = 400

    def __init__(self, asked: str, true: str = "", todo: str = "") -> None:
        self.asked, self.true, self.todo = asked, true, todo
        super().__init__(" ".join(part for part in (asked, true, todo) if part))


class NotFound(AtlasError):
    status = 404


class Refused(AtlasError):
    status = 409


class Invalid(AtlasError):
    status = 422


class Corrupt(AtlasError):
    status = 500


class Superseded(AtlasError):
    status = 409


class Cancelled(AtlasError):
    status = 409
