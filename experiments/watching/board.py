"""A health table of a run's looks, on the terminal and in a file."""

import csv
import warnings
from pathlib import Path
from typing import Any

SHOWN = {
    "epoch": "epoch", "step": "step", "m_loss": "loss", "l1": "L1", "psnr": "PSNR", "lpips": "LPIPS", "lpips_alex": "LPIPS (alex)",
    "lambda": "lambda", "critic_real": "D(x)", "critic_made": "D(x_hat)", "critic": "critic", "code_usage": "usage", "code_perplexity": "perplexity",
    "val_nats_per_token": "nats/token", "nats_per_code": "training", "seconds": "s",
}  # fmt: skip


class Board:
    """Where looks are read.

    Args:
        path: of the file, which holds all numbers of all looks.
        per_epoch: batches an epoch.
    """

    def __init__(self, path: Path, per_epoch: int) -> None:
        self.path, self.per_epoch = path, per_epoch
        self.rows: list[dict[str, float]] = []
        self._head: list[str] = []

    def __call__(self, look: dict[str, float]) -> None:
        """Prints the look as a line of the table, below a new head where its columns changed, and writes all of them down."""
        self.rows.append({"epoch": look["step"] / self.per_epoch, **look})
        names = [name for name in SHOWN if name in self.rows[-1]]
        if names != self._head:
            self._head = names
            print("  ".join(f"{SHOWN[name]:>{_width(name)}}" for name in names))
        print("  ".join(f"{_number(name, self.rows[-1][name]):>{_width(name)}}" for name in names), flush=True)
        try:
            self._write()
        except OSError as error:
            warnings.warn(f"{self.path} could not be written ({error.strerror or error}); the next look tries again", stacklevel=2)

    def _write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(dict.fromkeys(name for row in self.rows for name in row)))
            writer.writeheader()
            writer.writerows(self.rows)

    def state_dict(self) -> dict[str, Any]:
        """The looks so far."""
        return {"rows": self.rows}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores them."""
        self.rows = list(state["rows"])


def _width(name: str) -> int:
    return max(8, len(SHOWN[name]))


def _number(name: str, value: float) -> str:
    return f"{value:.0f}" if name in ("epoch", "step", "seconds", "code_perplexity") else f"{value:.1%}" if name == "code_usage" else f"{value:.4g}"
