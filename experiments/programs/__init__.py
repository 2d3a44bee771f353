"""The Pyro table: five programs with discrete latent variables, each with its exact posterior, and what guides make of them."""
