"""Numbers and pictures of a run's looks: a health table on the terminal and in health.csv, pictures as files, and as an option TensorBoard."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

SHOWN = {
    "epoch": "epoch", "step": "step", "loss": "loss", "m_loss": "loss", "l1": "L1", "psnr": "PSNR", "lpips": "LPIPS", "lpips_alex": "LPIPS (alex)",
    "lambda": "lambda", "critic_real": "D(x)", "critic_made": "D(x_hat)", "critic": "critic", "code_usage": "usage", "code_perplexity": "perplexity",
    "val_nats_per_token": "nats/token", "train_nats_per_token": "training", "seconds": "s",
}  # fmt: skip


class Board:
    """Where looks go.

    Args:
        folder: of the run.
        tensorboard: whether event files are written, for ``tensorboard --logdir FOLDER``.
    """

    def __init__(self, folder: Path, tensorboard: bool = False) -> None:
        self.folder, self.writer = folder, None
        folder.mkdir(parents=True, exist_ok=True)
        if tensorboard:
            self.writer = _writer(folder / "tensorboard")

    def look(self, curve: Sequence[Mapping[str, float]]) -> None:
        """Prints the last look as a line of the health table, and writes all of them down."""
        names = [name for name in SHOWN if name in curve[-1]]
        if len(curve) == 1 or len(names) != len([name for name in SHOWN if name in curve[-2]]):
            print("  ".join(f"{SHOWN[name]:>{_width(name)}}" for name in names))
        print("  ".join(f"{_number(name, curve[-1][name]):>{_width(name)}}" for name in names), flush=True)
        with (self.folder / "health.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(dict.fromkeys(name for look in curve for name in look)))
            writer.writeheader()
            writer.writerows(curve)
        if self.writer is not None:
            for name, value in curve[-1].items():
                self.writer.add_scalar(name, value, int(curve[-1]["step"]))

    def picture(self, name: str, image: Float[Tensor, "C H W"], step: int) -> None:
        """Writes an image with values in [0, 1] to NAME.png, over the last of its name, and to TensorBoard."""
        save(self.folder / f"{name}.png", image)
        if self.writer is not None:
            self.writer.add_image(name, image, step)

    def close(self) -> None:
        """Writes out what waits."""
        if self.writer is not None:
            self.writer.close()


def _width(name: str) -> int:
    return max(8, len(SHOWN[name]))


def _number(name: str, value: float) -> str:
    return f"{value:.0f}" if name in ("epoch", "step", "seconds", "code_perplexity") else f"{value:.1%}" if name == "code_usage" else f"{value:.4g}"


def _writer(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError("tensorboard=true needs the package tensorboard: python -m pip install tensorboard") from error
    return SummaryWriter(str(folder))


def grid(images: Float[Tensor, "n C H W"], columns: int, enlarge: int = 1) -> Float[Tensor, "3 h w"]:
    """Images row by row, a white line between them, each pixel ``enlarge`` pixels a side."""
    images = images.detach().float().cpu().clamp(0, 1).expand(-1, 3, -1, -1).repeat_interleave(enlarge, -1).repeat_interleave(enlarge, -2)
    missing = -len(images) % columns
    images = torch.cat([images, images.new_ones(missing, *images.shape[1:])])
    images = torch.nn.functional.pad(images, (1, 1, 1, 1), value=1.0)
    return images.unflatten(0, (-1, columns)).permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2)


def save(path: Path, image: Float[Tensor, "C H W"]) -> None:
    """An image with values in [0, 1] as a file."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).squeeze(-1).numpy()).save(path)
