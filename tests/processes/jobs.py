"""What the processes of the tests do, and what one process does in their place."""

from typing import Any

import torch
from torch import Tensor, nn

from latentcomp import processes
from latentcomp.data.batches import Batches
from latentcomp.nn.batch_norm import SharedBatchNorm2d
from latentcomp.nn.critic import ActNorm
from latentcomp.phases.critic import Ramp
from latentcomp.train import NonFiniteLoss, fit
from tests.learners.contract import X, adam, batches, exchanging, made, state
from tests.scenarios import tiny_model

OWN = "tests.processes.jobs:"
ROWS = torch.rand(7, 2, 8, 8, generator=torch.Generator().manual_seed(5)).double()


def trained(fabric: Any, argument: str) -> dict[str, Tensor]:
    """A learner's parameters, state and metrics after some steps of odd batches: ``name*steps*kind of batches``."""
    name, steps, kind = argument.split("*")
    model, learner = made(name)
    if processes.rank():  # what the first process has is what counts
        for parameter in model.decoder.parameters():
            parameter.data.add_(1.0)
    data = batches(int(steps)) if kind == "whole" else Batches(X, 5, int(steps), seed=1)
    optimizer = adam(model, learner)
    metrics = list(fit(model, learner, data, optimizer, accumulate=2 if kind == "split" else 1, fabric=fabric))
    memories = {f"optimizer.{i}.{key}": value for i, own in optimizer.state_dict()["state"].items() for key, value in own.items()}
    return state(model, learner) | memories | {f"metric.{step}.{key}": value for step, m in enumerate(metrics) for key, value in m.items()}


def communicated(_: Any) -> dict[str, Tensor]:
    """Each exchange of ``processes``, on shares of three rows and four."""
    x = ROWS.tensor_split(processes.count())[processes.rank()]
    rows = {"long": torch.arange(len(x)) + 10 * processes.rank(), "double": x, "none": x[:0], "bool": x[:, 0, 0, 0] > 0.5, "half": x.half()}
    (mean,) = processes.averaged([x.mean(0)], len(x))
    many = processes.summed([x[0], x.sum(0).float(), x.sum(), *(torch.full((3,), float(i)) for i in range(5))])
    return {f"gathered.{k}": v for k, v in processes.gathered(rows).items()} | {"mean": mean, "sum": many[1], "count": many[-1]}


def laid_out(_: Any) -> dict[str, Tensor]:
    """Of convolutions in ``channels_last``: the first process's kernel of one channel, whose layout differs from the usual in the stride of that channel alone;
    and, of two channels, gradients that one process has or both have, and what a fused optimiser makes of them.
    """
    kernel = torch.empty(3, 1, 2, 2).as_strided((3, 1, 2, 2), (4, 1, 2, 1)).copy_(torch.arange(12.0).view(3, 1, 2, 2) + 100 * processes.rank())
    processes.broadcast([kernel])
    weights = [nn.Parameter(torch.zeros(3, 2, 2, 2).to(memory_format=torch.channels_last)) for _ in range(2)]
    for i, weight in enumerate(weights):
        if processes.rank() >= i:
            weight.grad = torch.empty_like(weight).copy_(torch.arange(24.0).view_as(weight))
    processes.sum_gradients(weights)
    gradients = {f"gradient.{i}": weight.grad.clone() for i, weight in enumerate(weights)}
    torch.optim.SGD(weights, 1.0, fused=True).step()
    return {"kernel": kernel} | gradients | {f"weight.{i}": weight.detach() for i, weight in enumerate(weights)}


def normalised(_: Any, kind: str) -> dict[str, Tensor]:
    """Output, gradients and running moments of a norm, for a loss that is a mean over all rows."""
    norm = {"batch": lambda: SharedBatchNorm2d(2), "act": lambda: ActNorm(2)}[kind]().double()
    x = ROWS.tensor_split(processes.count())[processes.rank()].clone().requires_grad_()
    y = norm(x)
    (y.pow(3).mean() * len(x) / len(ROWS)).backward()
    processes.sum_gradients(list(norm.parameters()))
    gathered = processes.gathered({"y": y, "dx": x.grad})
    return gathered | {n: p.grad for n, p in norm.named_parameters()} | {f"buffer.{n}": b for n, b in norm.named_buffers()}


def narrow(_: Any) -> dict[str, Tensor]:
    """Moments of maps in bfloat16, over more numbers than it can count."""
    x = ROWS.bfloat16().repeat(1, 1, 9, 9).tensor_split(processes.count())[processes.rank()]
    return dict(zip(("mean", "variance", "number"), processes.moments(x, (0, 2, 3)), strict=True))


def in_sixteen_bits(_: Any) -> dict[str, Tensor]:
    """A shared norm's output, its input's gradient and its running moments under autocast, as a critic has them in mixed precision; the map lies far from 0."""
    norm, scale = SharedBatchNorm2d(2), torch.linspace(0.5, 1.5, len(ROWS)).view(-1, 1, 1, 1)
    x = (ROWS.float() + 4).bfloat16().tensor_split(processes.count())[processes.rank()].requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = norm(x)
    (y.float().pow(3) * scale.tensor_split(processes.count())[processes.rank()]).mean().mul(len(x) / len(ROWS)).backward()
    return processes.gathered({"y": y.detach(), "dx": x.grad}) | {"mean": norm.running_mean, "variance": norm.running_var}


def plain_norm(fabric: Any, mode: str) -> str:
    """What a run says whose critic has one of torch's own batch norms, in training or frozen."""
    model, learner = tiny_model(), exchanging(Ramp()).double()
    network = learner.critic.network
    network.add_module("last", nn.BatchNorm2d(1).double().train(mode == "train"))
    optimizer = adam(model, learner)
    try:
        return f"{len(list(fit(model, learner, batches(1), optimizer, fabric=fabric)))} steps"
    except ValueError as error:
        return str(error)


def adversarial(fabric: Any, size: str) -> dict[str, Tensor]:
    """Thirty steps of a VQGAN that speaks to other processes inside its losses; batches of five are shared unequally."""
    model, learner = tiny_model(), exchanging().double()
    metrics = list(fit(model, learner, batches(30, size=int(size)), adam(model, learner), fabric=fabric))
    return state(model, learner) | {f"{step}.{key}": value for step, m in enumerate(metrics) for key, value in m.items()}


def in_float32(_: Any, argument: str) -> dict[str, Tensor]:
    """The metrics of thirty steps, each a curve: ``name*order``, where another order than 0 turns the rows of every batch about.

    One process splits its batches in two, as two processes share them.
    """
    name, order = argument.split("*")
    model, learner = (part.float() for part in made(name))
    draws = torch.Generator().manual_seed(int(order))
    data = []
    for batch in batches(30):
        rows = torch.randperm(batch.size, generator=draws) if order != "0" else torch.arange(batch.size)
        data.append(batch._replace(x=batch.x[rows].float(), index=batch.index[rows]))
    metrics = list(fit(model, learner, data, adam(model, learner), accumulate=1 if processes.count() > 1 else 2))
    return {key: torch.stack([step[key].double() for step in metrics if key in step]) for key in sorted({*metrics[0], *metrics[-1]})}


def broken(fabric: Any, how: str) -> str:
    """A run in which something goes wrong in the second process that stops both alike; the error and what is left of the run."""
    model, learner = made("vq_ema") if how != "lambda" else (tiny_model(), exchanging(Ramp()).double())
    data = batches(3, size=6 if how == "parts" else 5)
    if how in ("nan", "lambda"):
        data[1] = data[1]._replace(x=data[1].x.clone())
        data[1].x[-1] = torch.nan
    elif how == "few":
        data[1] = data[1]._replace(x=data[1].x[:1], index=data[1].index[:1])
    elif how == "parts":
        data[1] = data[1]._replace(x=data[1].x[:5], index=data[1].index[:5])
    elif processes.rank() == 1:
        data = data[:1]
    steps = 0
    try:
        for _ in fit(model, learner, data, adam(model, learner), accumulate=3 if how == "parts" else 1, fabric=fabric):
            steps += 1
    except (NonFiniteLoss, ValueError) as error:
        return f"{steps} {learner.step} {type(error).__name__}: {error}"
    return "it went through"
