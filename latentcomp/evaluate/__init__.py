"""The yardstick: the same estimator judges every learner."""
