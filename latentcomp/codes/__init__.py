"""Distributions over code sequences z = (z_1, ..., z_N): what a prior p(z) and a posterior q(z|x) return."""
