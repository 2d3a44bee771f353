"""Experiments: hydra lives here, and the library knows nothing of it."""
