"""The named run: a short training whose weights both sides hold when log p(x) of a trained model is timed.

    python -m benchmarks.gflownet_em.train --data PATH

GFlowNet-EM on MNIST with the published networks, trained as the library can rather than as published, since the question is how fast a trained model is
judged: log-variance instead of one log Z, an E-step, a sleep phase and a greedy M-step on each batch, a higher learning rate.
"""

import argparse
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.gflownet_em.ours import Ours, networks, optimizer
from benchmarks.gflownet_em.sides import Setting
from latentcomp import checkpoint
from latentcomp.data import Split, mnist
from latentcomp.evaluate import importance
from latentcomp.learners.gflownet_em import GFlowNetEM
from latentcomp.phases.behaviour import OnPolicy
from latentcomp.phases.e_step import LogVariance
from latentcomp.phases.m_step import Greedy
from latentcomp.phases.schedule import EachBatch
from latentcomp.phases.sleep import Sleep
from latentcomp.train import fit

OUT = Path("outputs") / "benchmarks" / "gflownet_em.pt"
KEPT = 8  # test images kept beside the weights, so that the benchmark needs no data


def arguments() -> argparse.Namespace:
    """The options of the run."""
    parser = argparse.ArgumentParser(description="trains the model of log_px_trained")
    parser.add_argument("--data", type=Path, help="folder of the IDX files of MNIST; without it torchvision downloads them")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--channels", type=int, default=128)
    parser.add_argument("--codes", type=int, default=10)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--updates", type=int, default=400, help="batches; each is an E-step, a sleep phase and an M-step")
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--images", type=int, default=100, help="test images of the test NLL")
    parser.add_argument("--samples", type=int, default=5000, help="of the test NLL")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    return parser.parse_args()


def main(options: argparse.Namespace) -> None:
    """Trains, judges, saves, and prints what was done."""
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    setting = Setting(options.channels, options.codes, options.batch, options.device)
    data = Split(*(part if part is None else part.to(options.device) for part in mnist(options.data)))
    model, posterior = (module.to(options.device) for module in networks(setting))
    learner = GFlowNetEM(posterior, LogVariance(), OnPolicy(2), EachBatch(), Greedy(), Sleep())
    descent = optimizer(model, learner, {"network": options.rate})
    started = time.perf_counter()
    for update, metrics in enumerate(fit(model, learner, data.batches(options.batch, options.updates), descent), 1):
        if update % max(1, options.updates // 20) == 0:
            numbers = ", ".join(f"{name} {float(value):.2f}" for name, value in metrics.items())
            print(f"{update} updates, {time.perf_counter() - started:.0f} s: {numbers}", flush=True)
    about = {"command": "python -m benchmarks.gflownet_em.train " + shlex.join(sys.argv[1:]), "updates": options.updates}
    about |= judged(model, posterior, data.test[: options.images], options.samples)
    state = {"model": model.state_dict(), "posterior": posterior.state_dict(), "images": data.test[:KEPT], "setting": list(setting[:2]), "about": about}
    checkpoint.save_data(options.out, state)
    print(about, f"saved in {options.out}", sep="\n")


def judged(model: Any, posterior: Any, x: torch.Tensor, samples: int) -> dict[str, Any]:
    """Test NLL by plain samples of q, and how many of an image's samples differ."""
    estimate = importance.log_px(model, posterior, x, samples=samples, prior_share=0.0)
    counts = [importance.draws(model, posterior, image, samples, 0, row, prior_share=0.0).decoded for row, image in enumerate(x.split(1))]
    return {
        "test_nll": -float(estimate.log_px.mean()),
        "test_images": len(x),
        "samples": samples,
        "mean_ess": float(estimate.ess.mean()),
        "mean_distinct_codes": sum(counts) / len(counts),
    }


def restore(path: Path, ours: Ours) -> tuple[torch.Tensor, dict[str, Any]]:
    """Gives our side the weights of the run; its test images, and what is known of it.

    Raises:
        FileNotFoundError: there was no such run.
        ValueError: the run had networks of other sizes.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: run python -m benchmarks.gflownet_em.train --data PATH first, or add --without log_px_trained")
    saved = torch.load(path, map_location=ours.setting.device, weights_only=True)
    if tuple(saved["setting"]) != ours.setting[:2]:
        raise ValueError(f"{path} holds a model of (C, K) = {tuple(saved['setting'])}, the benchmark asks for {ours.setting[:2]}: train one of that size")
    ours.model.load_state_dict(saved["model"])
    ours.posterior.load_state_dict(saved["posterior"])
    return saved["images"], saved["about"]


if __name__ == "__main__":
    main(arguments())
