"""``python -m benchmarks.gflownet_em``: how many times as fast as a textbook loop, or as the published code, our E-step, sleep step, M-step and log p(x) are.

Every ratio is measured in one run, all sides in turn. With ``--reference PATH`` the ratios are those against the checkout that lies there, and the textbook
loop is compared with it too. ``--json FILE`` writes them, and how they were measured.
"""

import argparse
import json
from pathlib import Path

import torch

from benchmarks.gflownet_em.report import table
from benchmarks.gflownet_em.runs import RATIOS, measured
from benchmarks.gflownet_em.sides import Setting
from benchmarks.gflownet_em.train import OUT


def arguments() -> argparse.Namespace:
    """The options of the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gflownet_em", description="GFlowNet-EM's discrete VAE: ours against others, in one run")
    parser.add_argument("--reference", metavar="PATH", help="a checkout of GFNOrg/GFlowNet-EM")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the ratios")
    parser.add_argument("--trained", type=Path, default=OUT, help="the weights of log_px_trained, from python -m benchmarks.gflownet_em.train")
    parser.add_argument("--without", nargs="*", default=[], choices=RATIOS, help="leave these out")
    parser.add_argument("--repeats", type=int, default=7, help="of each step, on each side")
    parser.add_argument("--log-px-repeats", type=int, default=2, help="of log_px_untrained, one image, on each side")
    parser.add_argument("--images", type=int, default=8, help="how many images log_px_trained estimates, each once on each side")
    parser.add_argument("--samples", type=int, default=5000, help="M of the estimate")
    parser.add_argument("--channels", type=int, default=128)
    parser.add_argument("--codes", type=int, default=10)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    return parser.parse_args()


def main(options: argparse.Namespace) -> None:
    """Measures, prints and writes."""
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    setting = Setting(options.channels, options.codes, options.batch, options.device, options.reference)
    results = measured(setting, options)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))


if __name__ == "__main__":
    main(arguments())
