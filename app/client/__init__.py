"""Typed calls to the backend, latest-wins, and streams. Knows nothing of Panel."""
