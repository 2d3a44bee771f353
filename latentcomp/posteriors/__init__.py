"""q(z|x): maps from a model and images to distributions over codes."""
