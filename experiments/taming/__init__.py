"""The tables of "Taming Transformers" (Esser, Rombach and Ommer, 2021): first stages, priors on their codes, and samples, each row with its published value."""
