"""The gradients table: exact bias and variance of every estimator, on a model small enough to enumerate all its samples."""
