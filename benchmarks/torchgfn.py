"""What torchgfn's trajectories cost: ``python -m benchmarks.torchgfn [--json FILE]``.

Three ways to one update of the same posterior by trajectory balance, from the same codes and rewards, interleaved in one run:

- native: our loss on log q from one teacher-forced pass;
- trajectories: the same pass handed to torchgfn's ``TBGFlowNet`` by ``to_trajectories``; expected to cost the native step plus N + 2 copies of the codes;
- recalculated: stock torchgfn, which asks the policy at each of the N + 1 prefixes, each of them a row of its own; expected to cost about N + 1 passes.
"""

import argparse
import json
from pathlib import Path

import torch
from gfn.gflownet import TBGFlowNet
from torch import nn

from benchmarks.gflownet_em.timing import interleaved, ratio
from latentcomp import objectives
from latentcomp.codebook.codebook import Codebook
from latentcomp.likelihoods import Bernoulli
from latentcomp.model import LatentVariableModel
from latentcomp.nn.mlp import ImageDecoder, ImageTrunk
from latentcomp.nn.transformer import CausalTransformer
from latentcomp.phases.e_step import AmortisedLogZ
from latentcomp.posteriors.autoregressive import Autoregressive
from latentcomp.priors import Uniform
from latentcomp.torchgfn import CodeEnv, LogZEstimator, PolicyEstimator, to_trajectories

IMAGE, HIDDEN = (1, 28, 28), 128


def arguments() -> argparse.Namespace:
    """The sizes of the step."""
    parser = argparse.ArgumentParser(description="one update through torchgfn against our own")
    parser.add_argument("--sites", type=int, default=16)
    parser.add_argument("--codes", type=int, default=8)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="where the ratios go")
    return parser.parse_args()


def measured(options: argparse.Namespace) -> dict[str, float]:
    """Seconds of each way and their ratios to the native step."""
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    model = LatentVariableModel(
        Uniform(options.sites, options.codes), Codebook(options.codes, 16), ImageDecoder(options.sites, 16, (HIDDEN,), IMAGE), Bernoulli()
    )
    policy = CausalTransformer((options.codes,) * options.sites, HIDDEN, width=64, layers=2, heads=4)
    posterior, log_z = Autoregressive(ImageTrunk(IMAGE, (HIDDEN,)), policy), AmortisedLogZ(HIDDEN)
    x = torch.rand(options.batch, *IMAGE).round()
    z = torch.randint(options.codes, (options.samples, options.batch, options.sites))
    with torch.no_grad():
        log_joint = model.log_joint(x, z)
    env = CodeEnv.of(model, x)
    estimator = PolicyEstimator(posterior, env)
    gfn = TBGFlowNet(estimator, None, logZ=LogZEstimator(log_z, estimator), constant_pb=True)
    optimizer = torch.optim.Adam(nn.ModuleList([posterior, log_z]).parameters(), 1e-3)

    def update(loss: torch.Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    def native() -> None:
        q = posterior(model, x)
        update(objectives.trajectory_balance_loss(q.log_prob(z), log_joint, log_z(q)))

    def theirs(recalculate: bool) -> None:
        q = estimator.read(model, x)
        log_q_steps = torch.zeros(z.shape) if recalculate else q.log_prob_steps(z)
        update(gfn.loss(env, to_trajectories(env, z, log_q_steps, log_joint), recalculate_all_logprobs=recalculate))

    ways = {"native": native, "trajectories": lambda: theirs(False), "recalculated": lambda: theirs(True)}
    times = interleaved(ways, options.repeats, warm_up=3)
    return {way: ratio(times, way, "native") for way in ways if way != "native"} | {"native_seconds": sorted(times["native"])[len(times["native"]) // 2]}


def main() -> None:
    """Measures and prints."""
    options = arguments()
    result = measured(options)
    print(f"{options.samples} codes of {options.sites} sites for each of {options.batch} images; native update: {1e3 * result['native_seconds']:.1f} ms")
    print(f"through to_trajectories: {result['trajectories']:.2f} times as long; recalculated by torchgfn: {result['recalculated']:.1f} times")
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
