"""Tests of latentcomp.taming."""
