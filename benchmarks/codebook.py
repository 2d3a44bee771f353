"""``python -m benchmarks.codebook [--json FILE]``: what a nearest-code lookup with its gradient costs, ours against vector-quantize-pytorch's.

One task: 2,048 vectors h, a learned codebook; their codes, the embeddings with a gradient in h, the loss that pulls h and codes together, and all gradients.
Sides, in turn in one run:

- ours: ``Codebook.nearest`` and what ``StraightThrough`` does with it, under the straight-through gradient and under the rotation trick;
- theirs: ``VectorQuantize(learnable_codebook=True, ema_update=False)`` in training mode, whose default is the rotation trick, and the same without it;
- bare: the product of h and the codes and an argmin, without a gradient: not even a right answer, since it leaves out |e|^2.

Ratios are like for like, rotation against rotation. Before anything is timed, both must give the same codes and gradients.

The floor: 2 M K D operations of the product, at the rate that a product of two 2048 x 2048 matrices reaches here, and the bytes of h, codes and their
gradients, each once. The table of distances is no part of it: who keeps it in the cache need not move its 4 M K bytes.
"""

import argparse
import json
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate
from torch import Tensor
from vector_quantize_pytorch import VectorQuantize

from benchmarks.gflownet_em.timing import Times, interleaved, ratio
from latentcomp import __version__, objectives
from latentcomp.codebook.codebook import Codebook

SIZES = ((8192, 32), (16384, 256))  # K, D
WANTED = {(8192, 32): 4.0, (16384, 256): 3.5}
BATCH, SITES = 8, 256
Task = Callable[[], object]


def ours(codebook: Codebook, h: Tensor, upstream: Tensor, gradient: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Codes; gradients stay in ``h`` and in the codebook."""
    h.grad = codebook.weight.grad = None
    z = codebook.nearest(h)
    point = codebook.project(h)
    out = gradient(point, codebook(z))
    target, e = codebook.assigned(point, z)
    loss = (objectives.codebook_loss(e, target) + objectives.commitment_loss(e, target)) / (h.shape[-2] * h.shape[-1])
    torch.autograd.backward([out, loss], [upstream, torch.ones(())])
    return z


def theirs(quantiser: VectorQuantize, h: Tensor, upstream: Tensor) -> Tensor:
    """The same."""
    h.grad = None
    quantiser.zero_grad(set_to_none=True)
    out, z, loss = quantiser(h)
    torch.autograd.backward([out, loss], [upstream, torch.ones_like(loss)])
    return z


def tasks(codes: int, width: int) -> dict[str, Task]:
    """All sides, on the same vectors and codes.

    Raises:
        RuntimeError: two sides disagree on a code or a gradient.
    """
    torch.manual_seed(0)
    h, upstream = torch.randn(BATCH, SITES, width).requires_grad_(), torch.randn(BATCH, SITES, width)
    codebook = Codebook(codes, width)
    made = {way: VectorQuantize(dim=width, codebook_size=codes, learnable_codebook=True, ema_update=False, rotation_trick=way).train() for way in (True, False)}
    for quantiser in made.values():
        quantiser._codebook.embed.data.copy_(codebook.weight.unsqueeze(0))
    sides: dict[str, Task] = {
        "ours, rotation": lambda: ours(codebook, h, upstream, objectives.rotation_trick),
        "ours, straight-through": lambda: ours(codebook, h, upstream, objectives.straight_through),
        "theirs, rotation": lambda: theirs(made[True], h, upstream),
        "theirs, straight-through": lambda: theirs(made[False], h, upstream),
    }
    for way, rotation in (("rotation", True), ("straight-through", False)):
        _agree(way, _result(sides[f"ours, {way}"], h, codebook.weight), _result(sides[f"theirs, {way}"], h, made[rotation]._codebook.embed))
    flat, weight, square = h.detach().flatten(0, 1), codebook.weight.detach(), torch.randn(2048, 2048)
    return sides | {"bare": lambda: (flat @ weight.T).argmin(-1), "product": lambda: square @ square}


def _result(side: Task, h: Tensor, weight: Tensor) -> list[Tensor]:
    z = side()
    found = [z, h.grad, weight.grad]
    return [tensor.reshape(-1, tensor.shape[-1]).clone() for tensor in found if isinstance(tensor, Tensor)]


def _agree(way: str, a: list[Tensor], b: list[Tensor]) -> None:
    for what, x, y in zip(("codes", "gradients of h", "gradients of the codebook"), a, b, strict=True):
        if not torch.allclose(x.double(), y.double(), rtol=1e-3, atol=1e-5):
            raise RuntimeError(f"{way}: both sides must give the same {what} before their times mean anything; they differ by {float((x - y).abs().max())}")


def floor(codes: int, width: int, product: float) -> dict[str, float]:
    """Operations, bytes, and the seconds of the operations; ``product`` are those of a 2048 x 2048 matrix product."""
    rows = BATCH * SITES
    operations = 2.0 * rows * codes * width
    return {"operations": operations, "bytes": 4.0 * 2 * (rows + codes) * width, "seconds": operations * product / (2.0 * 2048**3)}


def ratios(codes: int, width: int, times: Times) -> dict[str, Any]:
    """How many times as fast, and how much slower than the bare product and than the floor."""
    least = floor(codes, width, sorted(times["product"])[len(times["product"]) // 2])
    return {
        "rotation": ratio(times, "theirs, rotation", "ours, rotation"),
        "straight_through": ratio(times, "theirs, straight-through", "ours, straight-through"),
        "over_bare": ratio(times, "ours, rotation", "bare"),
        "over_floor": sorted(times["ours, rotation"])[len(times["product"]) // 2] / least["seconds"],
        "wanted": {"rotation": WANTED[codes, width], "over_bare": 1.6},
        "floor": least,
        "seconds": times,
    }


def how(options: argparse.Namespace) -> dict[str, Any]:
    """Hardware, versions, sizes."""
    cpuinfo = Path("/proc/cpuinfo")
    names = {line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")} if cpuinfo.exists() else set()
    return {
        "command": "python -m benchmarks.codebook --json FILE",
        "hardware": f"{', '.join(sorted(names)) or platform.processor()}, {torch.backends.cpu.get_cpu_capability()}",
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "latentcomp": __version__, "vector-quantize-pytorch": _version()},
        "sizes": {"vectors": BATCH * SITES},
        "threads": options.threads,
        "repeats": options.repeats,
        "how": "all sides in turn in one process (A B C A B C ...), the first two rounds left out; ratios are of medians",
    }


def _version() -> str:
    from importlib.metadata import version

    return version("vector-quantize-pytorch")


def main() -> None:
    """Measures, prints, writes."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.codebook", description="nearest-code lookup with its gradient")
    parser.add_argument("--repeats", type=int, default=15, help="of each side")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the ratios")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    results: dict[str, Any] = {}
    rows = []
    for codes, width in SIZES:
        times = interleaved(tasks(codes, width), options.repeats, warm_up=2)
        found = results[f"K={codes}, D={width}"] = ratios(codes, width, times)
        milliseconds = {side: f"{1e3 * sorted(seconds)[len(seconds) // 2]:.1f}" for side, seconds in times.items()}
        rows.append([codes, width, *(milliseconds[side] for side in ("ours, rotation", "theirs, rotation", "bare")), f"{1e3 * found['floor']['seconds']:.1f}"])
        rows[-1] += [f"{found[key]:.2f}" for key in ("rotation", "straight_through", "over_bare")]
    print(tabulate(rows, ["K", "D", "ours (ms)", "theirs", "bare", "floor", "times as fast", "straight-through", "over bare"], "github", disable_numparse=True))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(results | {"measured": how(options)}, indent=1) + "\n")


if __name__ == "__main__":
    main()
