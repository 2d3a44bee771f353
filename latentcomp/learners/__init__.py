"""How q and p learn: one method a file, all with ``losses(model, batch)``."""
