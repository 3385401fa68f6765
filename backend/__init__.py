"""Manifold Atlas, the backend: models, manifolds, interventions, and the server that shares them."""
