"""Serving that knows no model: work and rows, the latest-wins mailbox, the scheduler with its one device thread,
jobs in processes of their own, and a byte-bounded cache. Imports ``backend.core`` only."""
