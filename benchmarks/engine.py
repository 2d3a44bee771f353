"""What the engine costs: ``python -m benchmarks.engine [--json FILE]``.

One step of GFlowNet-EM at MNIST scale (28x28 binary images, 16 sites of 8 codes, batches of 128), in turn, in one run: the bare loop, which takes each loss,
descends it and updates the learner, and the whole engine, which is ``train`` without its looks: ``fit`` with its checks of loss and gradient, Fabric,
signals, the log of every step, the schedule of the rates. Two copies of one model, from the same weights. The engine's steps are those of a running
``fit``. Times are the processor's (of all threads), which other work on the machine leaves alone, and the clock's beside them. Saves are timed beside, whole
and flushed to the disk, by the clock, and spread over the steps between two of them in the MNIST table.
"""

import argparse
import copy
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from experiments.watching.log import CSV, Log
from latentcomp.batch import Batch
from latentcomp.checkpoints import Checkpoints
from latentcomp.codebook import Codebook
from latentcomp.data.split import Split
from latentcomp.evaluate.budget import Budget, Descent, Machine
from latentcomp.evaluate.run import Run, nll_looks
from latentcomp.learners.gflownet_em import GFlowNetEM
from latentcomp.learners.learner import Learner
from latentcomp.likelihoods import Bernoulli
from latentcomp.model import LatentVariableModel
from latentcomp.nn.convolutional import ConvDecoder, ConvTrunk
from latentcomp.nn.transformer import CausalTransformer
from latentcomp.phases.m_step import ImportanceWeighted
from latentcomp.phases.sleep import Sleep
from latentcomp.posteriors.autoregressive import Autoregressive
from latentcomp.priors import Uniform
from latentcomp.signals import Signals
from latentcomp.train import fit

IMAGE, SITES, CODES = (1, 28, 28), 16, 8


def arguments() -> argparse.Namespace:
    """The sizes of the step."""
    parser = argparse.ArgumentParser(description="the engine against the bare loop")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=60)
    parser.add_argument("--between", type=int, default=350, help="steps between two saves")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="where the numbers go")
    return parser.parse_args()


def pair() -> tuple[LatentVariableModel, Learner]:
    """The model and its learner."""
    torch.manual_seed(0)
    decoder = ConvDecoder(32, 16)
    trunk = ConvTrunk(32, 128)
    model = LatentVariableModel(Uniform(SITES, CODES), Codebook(CODES, 16), decoder, Bernoulli())
    posterior = Autoregressive(trunk, CausalTransformer((CODES,) * SITES, 128, width=64, layers=2, heads=4))
    return model, GFlowNetEM(posterior, m_step=ImportanceWeighted(4), sleep=Sleep())


def descent(model: LatentVariableModel, learner: Learner) -> Descent:
    """AdamW with a schedule."""
    optimizer = torch.optim.AdamW([*model.parameters(), *learner.parameters()], 1e-3, fused=True)
    return Descent(optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0))


def bare(model: LatentVariableModel, learner: Learner, descending: Descent, batches: Iterator[Batch]) -> None:
    """One step as anyone would write it."""
    rows: dict[str, torch.Tensor] = {}
    for loss in learner.losses(model, next(batches)):
        descending.optimizer.zero_grad(set_to_none=True)
        loss.value.backward(inputs=loss.learns)
        descending.optimizer.step()
        rows |= loss.statistics
    learner.update(model, rows)


def fabric() -> object:
    """On this machine's CPU."""
    from lightning_fabric import Fabric

    return Fabric(accelerator="cpu", devices=1, precision="32-true")


def measured(options: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Median seconds of both steps and of a save, and the overhead as a share of the bare step."""
    torch.set_num_threads(options.threads)
    data = torch.rand(2000, *IMAGE, generator=torch.Generator().manual_seed(1)).round()
    split, steps = Split(data, data[:100], data[:100]), 10 * (options.repeats + 10)
    model, learner = pair()
    own, theirs = (model, learner), copy.deepcopy((model, learner))
    plain, batches = descent(*theirs), iter(split.batches(options.batch, steps))
    machine = Machine(fabric=fabric(), checkpoints=Checkpoints(folder / "states"), log=Log({"csv": CSV(folder / "metrics.csv")}))  # type: ignore[arg-type]
    run = Run(*own, descent(*own), nll_looks(split.validation, Budget(steps, options.batch)), machine)
    going = enumerate(fit(*own, split.batches(options.batch, steps), run.descent.optimizer, clip=1e6, fabric=machine.fabric), 1)
    with Signals() as signals:

        def engine() -> None:
            step, metrics = next(going)
            run.advance(metrics)
            run.pause()
            machine.log(step, metrics)  # type: ignore[misc]
            signals.asked()
            run.resume()

        rounds = [[timed(task) for task in (lambda: bare(*theirs, plain, batches), engine)] for _ in range(options.repeats + 3)][3:]
    save = statistics.median(timed(lambda: run.save(1, None))["clock"] for _ in range(9))
    result = {"save": save}
    for kind in ("processor", "clock"):
        step = statistics.median(ours[kind] for ours, _ in rounds)
        result |= {f"step_{kind}": step, f"loop_{kind}": statistics.median(engine[kind] - ours[kind] for ours, engine in rounds) / step}
    return result | {"saves": save / options.between / result["step_clock"]}


def timed(task: Callable[[], object]) -> dict[str, float]:
    """Seconds of the processor and of the clock."""
    clock, processor = time.perf_counter(), time.process_time()
    task()
    return {"processor": time.process_time() - processor, "clock": time.perf_counter() - clock}


def setting(options: argparse.Namespace) -> dict[str, Any]:
    """How it was measured."""
    machine = {"torch": torch.__version__, "python": platform.python_version(), "cpu": torch.backends.cpu.get_cpu_capability(), "load": os.getloadavg()[0]}
    sizes = {name: getattr(options, name) for name in ("batch", "repeats", "between", "threads")}
    return (
        {"command": "python -m benchmarks.engine --json FILE", "how": "both in turn in one process, medians; seconds, and shares of a bare step"}
        | sizes
        | machine
    )


def main() -> None:
    """Measures and prints."""
    options = arguments()
    with tempfile.TemporaryDirectory() as folder:
        result = measured(options, Path(folder))
    for kind in ("processor", "clock"):
        step, added = 1e3 * result[f"step_{kind}"], 100 * result[f"loop_{kind}"]
        print(f"{kind}: bare step {step:.1f} ms; the engine adds {added:.2f} % (medians over {options.repeats} rounds)")
    print(f"a save takes {1e3 * result['save']:.0f} ms, {100 * result['saves']:.2f} % of the {options.between} steps between two")
    print(f"together {100 * (result['loop_processor'] + result['saves']):.2f} %")
    if options.json:
        options.json.write_text(json.dumps(result | {"measured": setting(options)}, indent=1) + "\n")


if __name__ == "__main__":
    main()
