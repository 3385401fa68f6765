"""What crosses the network between app and backend: pydantic models and one binary container. No torch, no numpy.

Everything here is imported by ``app/`` as well, so the app starts without a model library.
"""
