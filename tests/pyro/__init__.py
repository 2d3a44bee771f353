"""Pyro programs."""
