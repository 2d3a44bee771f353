"""The named run: a short training whose weights both sides hold when log p(x) of a trained model is timed.

    python -m benchmarks.gflownet_em.train --data PATH

The question is how fast a trained model is judged, not how good it is, so the run takes the shortest way to a posterior that is certain of something. A
VQ-VAE with the published layers learns decoder and codes; the posterior, which starts from its encoder, imitates its codes; then GFlowNet-EM refines both
(log-variance on two samples, a greedy M-step on each batch).
"""

import argparse
import shlex
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from benchmarks.gflownet_em.ours import Ours, networks, optimizer
from benchmarks.gflownet_em.sides import Setting
from latentcomp import checkpoint, objectives
from latentcomp.batch import Batch
from latentcomp.data import Split, mnist
from latentcomp.evaluate import importance
from latentcomp.learners.gflownet_em import GFlowNetEM
from latentcomp.learners.straight_through import StraightThrough
from latentcomp.model import LatentVariableModel
from latentcomp.nn.convolutional import ConvSites
from latentcomp.phases.behaviour import OnPolicy
from latentcomp.phases.e_step import LogVariance
from latentcomp.phases.m_step import Greedy
from latentcomp.phases.schedule import EachBatch
from latentcomp.posteriors.nearest_code import NearestCode
from latentcomp.posteriors.posterior import Posterior
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
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--updates", type=int, nargs=3, default=(1500, 5000, 300), metavar=("VQ", "IMITATION", "EM"), help="of the three stages, in batches")
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
    vq = StraightThrough(NearestCode(ConvSites(setting.channels, 1))).to(options.device)
    em = GFlowNetEM(posterior, LogVariance(), OnPolicy(2), EachBatch(), Greedy())
    told = [data.batches(options.batch, updates, seed) for seed, updates in enumerate(options.updates)]
    _watched("VQ", fit(model, vq, told[0], optimizer(model, vq, {"network": options.rate})), len(told[0]))
    posterior.trunk.encoder.load_state_dict(vq.posterior.encoder.encoder.state_dict())
    _watched("imitation", imitation(model, vq.posterior, posterior, told[1], torch.optim.Adam(posterior.parameters(), options.rate)), len(told[1]))
    _watched("EM", fit(model, em, told[2], optimizer(model, em, {"network": options.rate / 5})), len(told[2]))
    about = {"command": "python -m benchmarks.gflownet_em.train " + shlex.join(sys.argv[1:]), "updates": list(options.updates)}
    about |= judged(model, posterior, data.test[: options.images], options.samples)
    state = {"model": model.state_dict(), "posterior": posterior.state_dict(), "images": data.test[:KEPT], "setting": list(setting[:2]), "about": about}
    checkpoint.save_data(options.out, state)
    print(about, f"saved in {options.out}", sep="\n")


def imitation(model: LatentVariableModel, of: Posterior, posterior: Posterior, batches: Iterable[Batch], descent: Optimizer) -> Iterator[dict[str, Tensor]]:
    """The posterior learns the codes of another by maximum likelihood."""
    for batch in batches:
        with torch.no_grad():
            z = of(model, batch.x).mode
        loss = objectives.sleep_loss(posterior(model, batch.x).log_prob(z))
        descent.zero_grad(set_to_none=True)
        loss.backward()
        descent.step()
        yield {"cross_entropy": loss.detach()}


def _watched(stage: str, run: Iterable[dict[str, Tensor]], updates: int) -> None:
    """Makes the updates, and says ten times what they came to."""
    started = time.perf_counter()
    for update, metrics in enumerate(run, 1):
        if update % max(1, updates // 10) == 0:
            numbers = ", ".join(f"{name} {float(value):.2f}" for name, value in metrics.items())
            print(f"{stage}: {update} updates, {time.perf_counter() - started:.0f} s: {numbers}", flush=True)


def judged(model: LatentVariableModel, posterior: Posterior, x: Tensor, samples: int) -> dict[str, Any]:
    """Test NLL by plain samples of q, and how many of an image's samples differ."""
    estimate = importance.log_px(model, posterior, x, samples=samples, prior_share=0.0)
    counts = [importance.draws(model, posterior, image, samples, 0, row, prior_share=0.0).pairs.z.size(0) for row, image in enumerate(x.split(1))]
    return {
        "test_nll": -float(estimate.log_px.mean()),
        "test_images": len(x),
        "samples": samples,
        "mean_ess": float(estimate.ess.mean()),
        "mean_distinct_codes": sum(counts) / len(counts),
    }


def restore(path: Path, ours: Ours, images: int) -> tuple[Tensor, dict[str, Any]]:
    """Gives our side the weights of the run; so many of its test images, and what is known of it.

    Raises:
        FileNotFoundError: there was no such run.
        ValueError: the run had networks of other sizes, or fewer images were kept.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: run python -m benchmarks.gflownet_em.train --data PATH first, or add --without log_px_trained")
    saved = torch.load(path, map_location=ours.setting.device, weights_only=True)
    if tuple(saved["setting"]) != ours.setting[:2]:
        raise ValueError(f"{path} holds a model of (C, K) = {tuple(saved['setting'])}, the benchmark asks for {ours.setting[:2]}: train one of that size")
    if not 1 <= images <= len(saved["images"]):
        raise ValueError(f"{path} keeps {len(saved['images'])} test images: ask for 1 to {len(saved['images'])} of them, got --images {images}")
    ours.model.load_state_dict(saved["model"])
    ours.posterior.load_state_dict(saved["posterior"])
    return saved["images"][:images], saved["about"]


if __name__ == "__main__":
    main(arguments())
