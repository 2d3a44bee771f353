"""The metrics of every step, in a CSV file, for TensorBoard and, as an option, for Weights & Biases.

They are read from the device a few dozen steps at once. A run that goes on after it was killed cuts its log back to where it was saved, so that a log
holds every step once, and the CSV of a run that was killed is byte for byte that of one that never was.
"""

import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

Row = tuple[int, str, float]


class Writer(Protocol):
    """Somewhere that rows go."""

    def write(self, rows: Sequence[Row]) -> None:
        """Keeps (step, name, value)."""
        ...

    def picture(self, step: int, name: str, image: Tensor) -> None:
        """Keeps an image ``(C, H, W)``."""
        ...

    def mark(self) -> int:
        """Writes everything out, and says how far it is."""
        ...

    def cut(self, mark: int, step: int) -> None:
        """Forgets what came after the mark, which was set at this step."""
        ...


class Log:
    """What ``train`` calls after each batch.

    Args:
        writers: where the rows go, by name.
        every: how many steps are read from the device at once.
        each: called with the number of every step, for a progress bar.
    """

    def __init__(self, writers: Mapping[str, Writer], every: int = 50, each: Callable[[int], None] | None = None) -> None:
        self.writers, self.every, self.each, self.last = dict(writers), every, each, 0
        self._waiting: list[tuple[int, dict[str, Tensor]]] = []

    def __call__(self, step: int, metrics: Mapping[str, Tensor]) -> None:
        """Keeps the metrics of a step."""
        self._waiting.append((step, dict(metrics)))
        self.last = step
        if self.each is not None:
            self.each(step)
        if len(self._waiting) >= self.every:
            self.flush()

    def look(self, step: int, numbers: Mapping[str, float]) -> None:
        """Keeps numbers that lie on the host, behind the metrics of their step."""
        self.flush()
        self._write([(step, name, float(value)) for name, value in numbers.items()])

    def picture(self, step: int, name: str, image: Tensor) -> None:
        """Keeps an image."""
        for writer in self.writers.values():
            writer.picture(step, name, image)

    def flush(self) -> None:
        """Reads what waits on the device, at once."""
        names = [(step, name) for step, metrics in self._waiting for name in metrics]
        if names:
            values = torch.stack([value.double() for _, metrics in self._waiting for value in metrics.values()]).tolist()
            self._write([(step, name, value) for (step, name), value in zip(names, values, strict=True)])
        self._waiting.clear()

    def _write(self, rows: Sequence[Row]) -> None:
        for writer in self.writers.values():
            writer.write(rows)

    def state_dict(self) -> dict[str, Any]:
        """How far each writer is."""
        self.flush()
        return {"last": self.last, "marks": {name: writer.mark() for name, writer in self.writers.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Cuts each writer back; one that is new begins here."""
        self.last = state["last"]
        for name, writer in self.writers.items():
            writer.cut(state["marks"].get(name, 0), self.last)


class CSV:
    """Lines of step, metric and value, since steps of different phases have different metrics. Values are written so that they are read back exactly.

    Args:
        path: the file; a new run writes it anew.
    """

    head = "step,metric,value\n"

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self._length, self._waiting = path, 0, self.head

    def write(self, rows: Sequence[Row]) -> None:
        """Appends lines and hands them to the system, so that a run that is killed has them. Where the disk is full they wait for the next call."""
        self._waiting += "".join(f"{step},{name},{value!r}\n" for step, name, value in rows)
        try:
            self._append()
        except OSError as error:
            warnings.warn(f"{self.path} cannot be written ({error.strerror}); its lines wait for the next step", stacklevel=2)

    def _append(self, flush: bool = False) -> None:
        with self.path.open("r+b" if self._length else "wb") as file:
            file.truncate(self._length)  # what a write that failed has left
            file.seek(self._length)
            file.write(self._waiting.encode())
            file.flush()
            if flush:
                os.fsync(file.fileno())
            self._length, self._waiting = file.tell(), ""

    def picture(self, step: int, name: str, image: Tensor) -> None:
        """Keeps none."""

    def mark(self) -> int:
        """The length of the file, flushed to the disk.

        Raises:
            OSError: the disk is full; without its log a run is not saved.
        """
        self._append(flush=True)
        return self._length

    def cut(self, mark: int, step: int) -> None:
        """Cuts the file to that length.

        Raises:
            FileNotFoundError: it is gone or shorter, so that the log would have a hole.
        """
        if not self.path.exists() or self.path.stat().st_size < mark:
            raise FileNotFoundError(f"{self.path} should hold {mark} bytes of the first {step} steps: put it back, or begin anew elsewhere")
        self._length, self._waiting = mark, "" if mark else self.head


class TensorBoard:
    """Event files for ``tensorboard --logdir``. Where the disk is full they lose steps, and a new file is begun once it is not: the CSV has them all.

    Args:
        folder: where they go.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._writer: Any = None

    def _open(self, purge: int | None = None) -> Any:
        from torch.utils.tensorboard import SummaryWriter

        if self._writer is None:
            self._writer = SummaryWriter(str(self.folder), purge_step=purge)
        return self._writer

    def write(self, rows: Sequence[Row]) -> None:
        """Scalars."""
        with self._surviving():
            writer = self._open()
            for step, name, value in rows:
                writer.add_scalar(name, value, step)

    def picture(self, step: int, name: str, image: Tensor) -> None:
        """An image."""
        with self._surviving():
            self._open().add_image(name, image.clamp(0, 1), step)

    def mark(self) -> int:
        """Writes out the queue; TensorBoard itself drops what a purge names."""
        with self._surviving():
            self._open().flush()
        return 0

    def cut(self, mark: int, step: int) -> None:
        """Tells TensorBoard that steps after this one are made again."""
        with self._surviving():
            self._open(step + 1)

    @contextmanager
    def _surviving(self) -> Iterator[None]:
        """A writer whose thread has met an error raises it for ever, so it is given up."""
        try:
            yield
        except OSError as error:
            self._writer = None
            warnings.warn(f"{self.folder} cannot be written ({error.strerror or error}); TensorBoard lacks some steps", stacklevel=4)


class WandB:
    """Weights & Biases (``pip install wandb``).

    Args:
        project: its name there.
        run: the name of the run, under which it goes on.
        folder: for its files.
    """

    def __init__(self, project: str, run: str, folder: Path) -> None:
        try:
            import wandb
        except ImportError:
            raise ImportError("log.wandb names a project of Weights & Biases, which needs its package: pip install wandb, or log.wandb=null") from None
        self._wandb = wandb
        self._run = wandb.init(project=project, name=run, id=run.replace("/", "-"), resume="allow", dir=str(folder))

    def write(self, rows: Sequence[Row]) -> None:
        """One record a step."""
        for step in dict.fromkeys(step for step, _, _ in rows):
            self._run.log({name: value for at, name, value in rows if at == step and math.isfinite(value)}, step=step)

    def picture(self, step: int, name: str, image: Tensor) -> None:
        """An image."""
        self._run.log({name: self._wandb.Image(image.float().cpu())}, step=step)

    def mark(self) -> int:
        """Nothing to do: it sends by itself, and refuses steps that it has."""
        return 0

    def cut(self, mark: int, step: int) -> None:
        """Nothing to do."""
