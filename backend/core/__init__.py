"""Settings, errors, device policy, seeds, artifacts on disk, timing spans, linear algebra."""
