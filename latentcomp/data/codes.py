"""Codes precomputed to disk: a second stage reads images once, its codes as often as it likes.

A folder of ``header.json``, ``z.npy`` and, with conditions, ``r.npy``. The header names the first stage and a hash of its weights, the grid, K, the number
of rows and a hash of each array; it is written last, so that a folder without one is unfinished. Arrays are read memory-mapped, a batch at a time.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn

from latentcomp.batch import Batch
from latentcomp.data.shuffled import Shuffled

FORMAT = "latentcomp codes 1"


def fingerprint(module: nn.Module) -> str:
    """A hash of a module's weights: names, types, shapes and values."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        if isinstance(tensor, Tensor):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _smallest(codes: int) -> Any:
    return np.uint16 if codes <= 2**16 else np.int32


@torch.no_grad()
def write_codes(
    folder: str | Path,
    stage: nn.Module,
    encode: Callable[[Tensor], Tensor],
    batches: Iterable[Batch],
    rows: int,
    grid: Sequence[int],
    codes: int,
    encode_condition: Callable[[Tensor], Tensor] | None = None,
) -> "CodeSet":
    """Encodes images batch by batch.

    Args:
        folder: a new one, or one that holds no header yet.
        stage: the first stage, whose class and weights the header names.
        encode: images to codes ``(B, h w)``.
        batches: in the order of the rows; each image as often as it is to be seen (ten crops, say).
        rows: how many in all.
        grid: (h, w).
        codes: K.
        encode_condition: conditions to codes ``(B, M)``, where the batches have some.

    Raises:
        FileExistsError: there are codes already.
        ValueError: more or fewer rows than announced, or codes that do not fit grid and K.
    """
    folder = Path(folder)
    if (folder / "header.json").exists():
        raise FileExistsError(f"{folder} holds codes already: remove it, or choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, np.memmap] = {}
    done = 0
    for batch in batches:
        parts = {"z": encode(batch.x)}
        if encode_condition is not None and batch.c is not None:
            parts["r"] = encode_condition(batch.c)
        _check_part(parts["z"], grid, codes, done, rows)
        for name, part in parts.items():
            if name not in arrays:
                kind = _smallest(codes) if name == "z" else np.int32
                arrays[name] = np.lib.format.open_memmap(folder / f"{name}.npy", "w+", kind, (rows, part.shape[1]))
            arrays[name][done : done + len(part)] = part.cpu().numpy()
        done += batch.size
    if done != rows:
        raise ValueError(f"{rows} rows were announced, but the batches hold {done}: count the images, crops included")
    for array in arrays.values():
        array.flush()
    header = {"format": FORMAT, "model": type(stage).__name__, "weights": fingerprint(stage), "grid": list(grid), "codes": codes, "rows": rows}
    header["arrays"] = {name: {"width": array.shape[1], "sha256": _hash(folder / f"{name}.npy")} for name, array in arrays.items()}
    unfinished = folder / "header.json.part"
    with unfinished.open("w") as file:
        json.dump(header, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(folder / "header.json")
    return CodeSet(folder)


def _check_part(z: Tensor, grid: Sequence[int], codes: int, done: int, rows: int) -> None:
    if z.ndim != 2 or z.shape[1] != grid[0] * grid[1]:
        raise ValueError(f"codes of a {grid[0]} x {grid[1]} grid have shape (B, {grid[0] * grid[1]}), got {tuple(z.shape)}: say the grid of these images")
    if z.numel() and (int(z.min()) < 0 or int(z.max()) >= codes):
        raise ValueError(f"codes must lie in 0..{codes - 1}; got values from {int(z.min())} to {int(z.max())}: say the codebook's K")
    if done + len(z) > rows:
        raise ValueError(f"{rows} rows were announced, but the batches hold more: count the images, crops included")


class CodeSet:
    """Codes on disk.

    Args:
        folder: what :func:`write_codes` wrote.
        verify: whether to read every byte and compare its hash; sizes are looked at in any case.

    Attributes:
        grid: (h, w).
        codes: K.

    Raises:
        FileNotFoundError: there is no header: no codes, or unfinished ones.
        ValueError: a file is damaged or of another kind; names it.
    """

    def __init__(self, folder: str | Path, verify: bool = True) -> None:
        self.folder = Path(folder)
        self.header = _header(self.folder)
        self.grid, self.codes = tuple(self.header["grid"]), int(self.header["codes"])
        arrays = {name: self._array(name, spec, verify) for name, spec in self.header["arrays"].items()}
        self.z, self.r = arrays["z"], arrays.get("r")

    def _array(self, name: str, spec: dict[str, Any], verify: bool) -> np.ndarray:
        path, shape = self.folder / f"{name}.npy", (self.header["rows"], spec["width"])
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise ValueError(f"{path} cannot be read ({error}): it is damaged or missing. Write the codes anew") from error
        if array.shape != shape or not np.issubdtype(array.dtype, np.integer):
            raise ValueError(f"{path} holds {array.dtype} of shape {array.shape}, but its header says whole numbers of {shape}: it belongs to other codes")
        if verify and _hash(path) != spec["sha256"]:
            raise ValueError(f"{path} is damaged: its contents are not those that its header has the hash of. Write the codes anew")
        return array

    def __len__(self) -> int:
        return int(self.header["rows"])

    def check(self, stage: nn.Module) -> None:
        """Refuses codes of another first stage.

        Raises:
            ValueError: names both.
        """
        if self.header["weights"] != fingerprint(stage):
            raise ValueError(
                f"{self.folder} holds codes of a {self.header['model']} with weights {self.header['weights'][:12]}, but this {type(stage).__name__} has "
                f"{fingerprint(stage)[:12]}: write its codes, or load the first stage that they came from"
            )

    def __getitem__(self, rows: Int[Tensor, " R"]) -> Batch:
        """Some rows as a batch: codes z, the condition's codes as c, and the codes once more in the place of images."""
        index = rows.cpu().numpy()
        z = torch.from_numpy(self.z[index].astype(np.int64))
        c = None if self.r is None else torch.from_numpy(self.r[index].astype(np.int64))
        return Batch(z, c, z, rows)

    def batches(self, size: int, updates: int, seed: int = 0) -> "CodeBatches":
        """Shuffled anew each epoch."""
        return CodeBatches(self, size, updates, seed)


class CodeBatches(Shuffled):
    """Batches of codes for a number of updates; the order of epoch t is a function of (seed, t).

    Args:
        codes: on disk.
        size: B; at most as many as there are rows.
        updates: how many batches.
        seed: of the order.
    """

    def __init__(self, codes: CodeSet, size: int, updates: int, seed: int = 0) -> None:
        super().__init__(len(codes), size, updates, seed, "rows")
        self.codes = codes

    def __iter__(self) -> Iterator[Batch]:
        for update in range(self.start, self.updates):
            yield self.codes[self.rows(update)]


def _header(folder: Path) -> dict[str, Any]:
    path = folder / "header.json"
    try:
        header = json.loads(path.read_text())
    except FileNotFoundError:
        raise FileNotFoundError(f"{folder} holds no header.json: it holds no codes, or writing them was interrupted. Write them anew") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} cannot be read ({error}): it is damaged. Write the codes anew") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise ValueError(f"{path} is no header of codes in the format {FORMAT!r}: another program, or another version, wrote it")
    missing = {"model", "weights", "grid", "codes", "rows", "arrays"} - header.keys()
    if missing or "z" not in header["arrays"]:
        raise ValueError(f"{path} lacks {', '.join(sorted(missing)) or 'the array z'}: it is damaged. Write the codes anew")
    return header
