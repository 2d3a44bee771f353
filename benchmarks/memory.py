"""How much memory large images take: ``python -m benchmarks.memory [--json FILE]``.

Two tasks, each in a process of its own, whose largest resident size is what counts (with Python and torch in it):

- tiled: a 1024 x 1024 image encoded and decoded in tiles by a VQGAN of the published size (f = 16, 128 channels, K = 1024);
- window: a 512 x 512 sample, 32 x 32 codes of a transformer trained on 16 x 16, by a sliding window with a cache, decoded in tiles by the same VQGAN.

Weights are random: memory does not depend on what they are.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from experiments.results import hardware
from latentcomp.codes.truncated import TruncatedCodes
from latentcomp.nn.gpt import GPT, Size
from latentcomp.sampling.tiled import Tiles, decoded, encoded
from latentcomp.sampling.window import slide
from latentcomp.taming.config import Config
from latentcomp.taming.first_stage import FirstStage, build_first_stage

F, K, WINDOW = 16, 1024, (16, 16)
TILES = Tiles(16, 4, 1)


def arguments() -> argparse.Namespace:
    """The sizes of the networks."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description="peak memory of large images")
    parser.add_argument("--channels", type=int, default=128, help="of the VQGAN's finest level")
    parser.add_argument("--layers", type=int, default=12, help="of the transformer")
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--stride", type=int, default=8, help="of the sliding window, in codes")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--task", choices=("tiled", "window"), help="this one alone, in this process")
    return parser.parse_args()


def first_stage(channels: int) -> FirstStage:
    """The published VQGAN."""
    dd = {"z_channels": 256, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": channels, "ch_mult": [1, 1, 2, 2, 4]}
    dd |= {"num_res_blocks": 2, "attn_resolutions": [16], "dropout": 0.0}
    params = {"embed_dim": 256, "n_embed": K, "ddconfig": dd}
    return build_first_stage(Config("VQModel", params)).eval()


def tiled(options: argparse.Namespace) -> torch.Tensor:
    """1024 x 1024, to codes and back."""
    stage = first_stage(options.channels)
    z = encoded(stage.encode, torch.rand(1, 3, 1024, 1024) * 2 - 1, F, TILES)
    return decoded(stage.decode, z, (1024 // F, 1024 // F), TILES)


def window(options: argparse.Namespace) -> torch.Tensor:
    """512 x 512, from nothing."""
    network = GPT((K,) * 256, Size(K, 256, options.width, options.layers, 8), start=0).eval()
    z = slide(lambda r: TruncatedCodes(network, r, top_k=100), (512 // F, 512 // F), WINDOW, stride=options.stride)
    return decoded(first_stage(options.channels).decode, z.flatten(1), (512 // F, 512 // F), TILES)


TASKS: dict[str, Callable[[argparse.Namespace], torch.Tensor]] = {"tiled": tiled, "window": window}


def here(options: argparse.Namespace) -> dict[str, object]:
    """One task in this process."""
    torch.set_num_threads(options.threads)
    start = time.perf_counter()
    x = TASKS[options.task](options)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    return {"peak_gib": peak, "seconds": time.perf_counter() - start, "image": list(x.shape), "finite": bool(x.isfinite().all())}


def apart(options: argparse.Namespace, task: str) -> dict[str, object]:
    """One task in a process of its own."""
    sizes = [f"--{name}={getattr(options, name)}" for name in ("channels", "layers", "width", "stride", "threads")]
    command = [sys.executable, "-m", "benchmarks.memory", f"--task={task}", *sizes]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return dict(json.loads(output))


def main() -> None:
    """Measures and prints."""
    options = arguments()
    if options.task:
        print(json.dumps(here(options)))
        return
    results = {task: apart(options, task) for task in TASKS}
    for task, result in results.items():
        print(f"{task}: {result['peak_gib']:.2f} GiB at most, {result['seconds']:.0f} s, image {result['image']}")
    if options.json:
        sizes = {name: getattr(options, name) for name in ("channels", "layers", "width", "stride", "threads")}
        made = {"command": "python -m benchmarks.memory --json FILE", "hardware": hardware()}
        options.json.write_text(json.dumps(results | {"setting": sizes | made}, indent=1) + "\n")


if __name__ == "__main__":
    main()
