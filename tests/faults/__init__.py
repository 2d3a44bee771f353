"""What a run must survive."""
