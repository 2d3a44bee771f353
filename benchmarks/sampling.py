"""How fast the second stage writes: ``python -m benchmarks.sampling [--reference PATH] [--json FILE]``.

256 codes of a transformer of six layers, width 256 and K = 1024 after one code of a condition, each drawn from the softmax of its logits, at batch 4 and 64.
Every ratio is measured in one run, all sides in turn, on the same weights:

- cached: ours, with keys and values in a preallocated cache;
- uncached: the same draws with one full pass a code over the prefix;
- reference (with ``--reference PATH``, a checkout of CompVis/taming-transformers): its minGPT under its ``sample_with_past``, whose cache is concatenated anew
  at each step.

The floor: a step reads all weights, 4 (12 L W^2 + W K) bytes, and the keys and values so far, 4 L B W N bytes in the mean; each number takes two operations, a
weight as many for each row. That is 20 MB and 6 MB at batch 4, where reading is all there is to it, 20 MB and 101 MB at batch 64, where multiplying costs as
much. Bytes are charged at the rate of a sum over more numbers than caches hold, operations at that of a product of two 2048 x 2048 matrices, and the dearer of
both counts. Weights that stay in a processor's last cache may be read faster than that.

Expected beyond the floor: at batch 4 the operations of a layer, 15 (``tests/nn/test_key_value.py``) of some microseconds each, as much as the floor again, and
the small products, which read weights at a part of that rate; at batch 64 little. The published sampler has its linear layers in common with ours, so that at
batch 4 the ratio is what copying its cache costs, which depends on how dear a machine's page faults are; at batch 64 that copy is most of its time anywhere.
"""

import argparse
import importlib.util
import json
import os
import platform
import statistics
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from benchmarks.gflownet_em.timing import interleaved, ratio
from latentcomp.codes.autoregressive import AutoregressiveCodes
from latentcomp.codes.distribution import inverse_cdf
from latentcomp.nn.gpt import GPT, Size
from latentcomp.noise import Noise

BATCHES = (4, 64)
WANTED = {4: 5.0, 64: 4.0}
READ, SIDE = 2**25, 2048
MINGPT = Path("taming") / "modules" / "transformer" / "mingpt.py"


def arguments() -> argparse.Namespace:
    """The sizes of the transformer and of the run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sampling", description="codes drawn from a transformer: ours against others, in one run")
    parser.add_argument("--reference", metavar="PATH", help="a checkout of CompVis/taming-transformers")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the ratios, and how they were measured")
    parser.add_argument("--steps", type=int, default=256)
    parser.add_argument("--codes", type=int, default=1024)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5, help="of each sample, on each side")
    parser.add_argument("--uncached-repeats", type=int, default=0, help="the same for the passes over the whole prefix, which take minutes at batch 64")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    return parser.parse_args()


def published(checkout: str | Path) -> ModuleType:
    """The checkout's minGPT and its samplers, as a module; what it imports for filters that are not used here is replaced by an empty module.

    Raises:
        FileNotFoundError: the folder holds no such file.
    """
    path = Path(checkout) / MINGPT
    if not path.is_file():
        raise FileNotFoundError(f"{checkout} is no checkout of CompVis/taming-transformers, it lacks {MINGPT}: git clone it, and give the folder of the clone")
    spec = importlib.util.spec_from_file_location("published_mingpt", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be imported")
    filters = ModuleType("transformers")
    filters.top_k_top_p_filtering = None  # type: ignore[attr-defined]  # a function that transformers no longer has
    before, sys.modules["transformers"] = sys.modules.get("transformers"), filters
    try:
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.modules.pop("transformers")
        if before is not None:
            sys.modules["transformers"] = before
    return module


def reference(ours: GPT, mingpt: ModuleType) -> Any:
    """The published network with our weights."""
    size = ours.size
    theirs = mingpt.GPT(size.vocabulary, size.positions, size.layers, size.heads, size.width).eval().to(ours.positions.device)
    state = {"tok_emb.weight": ours.tokens.weight, "pos_emb": ours.positions.unsqueeze(0), "head.weight": ours.head.weight}
    state |= {f"ln_f.{name}": value for name, value in ours.norm.named_parameters()}
    names = {"attention_norm": "ln1", "mlp_norm": "ln2", "out": "attn.proj", "mlp": "mlp"}
    for layer, block in enumerate(ours.blocks):
        for name, value in block.named_parameters():
            part, _, rest = name.partition(".")
            if part == "qkv":
                state |= {f"blocks.{layer}.attn.{n}.{rest}": third for n, third in zip(("query", "key", "value"), value.chunk(3), strict=True)}
            else:
                state[f"blocks.{layer}.{names[part]}.{rest}"] = value
    missing = theirs.load_state_dict(state, strict=False)
    if missing.unexpected_keys or any("mask" not in key for key in missing.missing_keys):
        raise ValueError(f"the checkout's minGPT is of another kind: {missing}")
    return theirs


@torch.no_grad()
def uncached(network: GPT, r: Tensor, steps: int, noise: Noise) -> Tensor:
    """The same draws, with one pass over everything before each."""
    u, z = noise.uniform((), (steps,)), torch.zeros(len(r), 1, dtype=torch.long, device=r.device)
    for step in range(steps):
        log_p = network.logits(z, r)[:, -1].log_softmax(-1)
        z = torch.cat([z[:, :-1], inverse_cdf(log_p, u[:, step]).unsqueeze(1), z[:, :1]], 1)
    return z[:, :-1]


def sides(options: argparse.Namespace, network: GPT, rows: int) -> tuple[dict[str, Callable[[], Tensor]], Tensor | None]:
    """What is timed at one batch size; and, for the reference, the largest difference between its logits and ours."""
    r, noise = torch.zeros(rows, 1, dtype=torch.long, device=options.device), torch.arange(rows, device=options.device)
    tasks: dict[str, Callable[[], Tensor]] = {"cached": lambda: AutoregressiveCodes(network, r).sample((), Noise(0, 0, noise))}
    if options.uncached_repeats:
        tasks["uncached"] = lambda: uncached(network, r, options.steps, Noise(0, 0, noise))
    if not options.reference:
        return tasks, None
    mingpt = published(options.reference)
    theirs = reference(network, mingpt)
    tasks["reference"] = lambda: mingpt.sample_with_past(r, theirs, options.steps)
    z = tasks["cached"]()
    with torch.no_grad():
        return tasks, (theirs(torch.cat([r, z[:, :-1]], 1))[0] - network.logits(z, r)).abs().max()


def floor(options: argparse.Namespace, rows: int, rates: Mapping[str, float]) -> dict[str, float]:
    """Bytes and operations of a sample of so many rows, and the seconds that the slower of both takes at rates in seconds a byte and an operation."""
    weights = options.layers * 12 * options.width**2 + options.width * options.codes
    looked_up = options.layers * rows * options.width * options.steps * (options.steps + 1)  # keys and values of all steps
    read, operations = 4.0 * (options.steps * weights + looked_up), 2.0 * (rows * options.steps * weights + looked_up)
    return {"bytes": read, "operations": operations, "seconds": max(read * rates["byte"], operations * rates["operation"])}


def rates(options: argparse.Namespace) -> dict[str, float]:
    """Seconds to read a byte from memory, and for an operation of a large product."""
    numbers, square = torch.ones(READ, device=options.device), torch.randn(SIDE, SIDE, device=options.device)
    times = interleaved({"read": lambda: numbers.sum(), "product": lambda: square @ square}, options.repeats, 1, options.device)
    return {"byte": statistics.median(times["read"]) / (4 * READ), "operation": statistics.median(times["product"]) / (2 * SIDE**3)}


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """Ratios, seconds and how they were measured."""
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    size = Size(options.codes, options.steps, options.width, options.layers, options.heads)
    network = GPT((options.codes,) * options.steps, size).eval().to(options.device)
    result: dict[str, Any] = {"seconds": {}, "floor": {}, "logits_differ_by": {}, "wanted": {f"batch_{rows}": wanted for rows, wanted in WANTED.items()}}
    found = rates(options)
    for rows in BATCHES:
        tasks, difference = sides(options, network, rows)
        slow = {name: tasks.pop(name) for name in ("uncached",) if name in tasks}
        times = interleaved(tasks, options.repeats, 1, options.device) | interleaved(slow, options.uncached_repeats, 0, options.device)
        result["seconds"][f"batch_{rows}"], result["floor"][f"batch_{rows}"] = times, floor(options, rows, found)
        result |= {f"{name}_over_cached_batch_{rows}": ratio(times, name, "cached") for name in times if name != "cached"}
        if difference is not None:
            result["logits_differ_by"][f"batch_{rows}"] = float(difference)
    return result | {"setting": setting(options)}


def setting(options: argparse.Namespace) -> dict[str, Any]:
    """How it was measured."""
    names = ("steps", "codes", "width", "layers", "heads", "repeats", "uncached_repeats", "threads", "device")
    machine = {"torch": torch.__version__, "python": platform.python_version(), "cores": len(os.sched_getaffinity(0)), "load": os.getloadavg()[0]}
    return (
        {name: getattr(options, name) for name in names}
        | machine
        | {"ratios": "of medians, all sides in turn in one process, after one round that counts nothing"}
    )


def report(result: Mapping[str, Any]) -> str:
    """The ratios in words."""
    lines = []
    for rows in BATCHES:
        times = result["seconds"][f"batch_{rows}"]
        for name in times:
            middle = sorted(times[name])[len(times[name]) // 2]
            factor = "" if name == "cached" else f", {result[f'{name}_over_cached_batch_{rows}']:.2f} times as long as cached"
            lines.append(f"batch {rows:2d}, {name:9s}: {middle:7.3f} s{factor}")
        least = result["floor"][f"batch_{rows}"]
        lines.append(f"batch {rows:2d}, floor    : {least['seconds']:7.3f} s, {least['bytes'] / 1e9:.1f} GB and {least['operations'] / 1e9:.0f} G operations")
    return "\n".join(lines)


def main() -> None:
    """Measures, prints and writes."""
    options = arguments()
    result = measured(options)
    print(report(result))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
