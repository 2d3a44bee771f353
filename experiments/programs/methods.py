"""What makes a posterior of a program: learned guides, one update at a time, and what can be had by enumeration alone."""

import math
from abc import ABC, abstractmethod

import torch
from jaxtyping import Float, Int
from torch import Tensor

from experiments.programs.problem import Problem
from latentcomp import objectives
from latentcomp.codes.table import TableCodes
from latentcomp.phases.schedule import OnlyE
from latentcomp.pyro import GFlowNetELBO, GFlowNetGuide, LearnerELBO, ReweightedWakeSleep, exact_posterior


class Method(ABC):
    """A posterior of one program that improves step by step.

    Args:
        problem: the program.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem

    @abstractmethod
    def step(self, rows: Int[Tensor, " B"], done: float) -> None:
        """One update, on these rows of the training data, when the share ``done`` of the training is over."""

    @abstractmethod
    def table(self) -> Float[Tensor, "B M"]:
        """log q of all values of z, for the test data."""


class Guide(Method):
    """A ``GFlowNetGuide``, trained by one of the ELBOs of ``latentcomp.pyro``.

    Args:
        problem: the program.
        elbo: what trains it.
        lr: of Adam, at the start; it falls along a cosine to nothing.
    """

    def __init__(self, problem: Problem, elbo: LearnerELBO | None = None, lr: float = 3e-3) -> None:
        super().__init__(problem)
        self.guide, self.elbo = GFlowNetGuide(problem.program), elbo
        self.guide.program(problem.program, (problem.train,), {})  # standardises by the training data
        self.lr, self.optimizer = lr, torch.optim.Adam(self.guide.parameters(), lr)

    def loss(self, rows: Int[Tensor, " B"]) -> Float[Tensor, ""]:
        """What is descended."""
        assert self.elbo is not None
        x = self.problem.train[rows]
        return self.elbo.differentiable_loss(self.problem.program, self.guide, x) / len(x)

    def step(self, rows: Int[Tensor, " B"], done: float) -> None:
        """One update of the guide; the programs have no parameters."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * (1 + math.cos(math.pi * done)) / 2
        self.optimizer.zero_grad(set_to_none=True)
        self.loss(rows).backward()
        self.optimizer.step()

    @torch.no_grad()
    def table(self) -> Float[Tensor, "B M"]:
        """By a walk over all prefixes."""
        return self.guide.q(self.problem.test).table()


class GFlowNet(Guide):
    """Log-variance on exploring samples."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem, GFlowNetELBO(num_particles=8, schedule=OnlyE()))


class WakeSleep(Guide):
    """Reweighted wake-sleep, weights normalised for each datum."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem, ReweightedWakeSleep(num_particles=8, schedule=OnlyE()))


class ExactSamples(Guide):
    """The same network by maximum likelihood on as many samples of the exact posterior: what it reaches when there is nothing to search for."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.exact = exact_posterior(problem.program, problem.train)

    def loss(self, rows: Int[Tensor, " B"]) -> Float[Tensor, ""]:
        """The cross-entropy."""
        z = TableCodes(self.exact.log_p[rows], self.exact.layout.cardinalities).sample((8,))
        return objectives.sleep_loss(self.guide.q(self.problem.train[rows]).log_prob(z))


class Marginals(Method):
    """The product of the exact marginals, which is what ``TraceEnum_ELBO.compute_marginals`` knows of a posterior."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        exact = problem.exact
        self.log_q = [exact.marginal(site.name)[:, v].log() for site in exact.layout.sites for v in range(site.variables)]

    def step(self, rows: Int[Tensor, " B"], done: float) -> None:
        """There is nothing to learn."""

    def table(self) -> Float[Tensor, "B M"]:
        """The outer sum over variables."""
        table = self.log_q[0]
        for log_q in self.log_q[1:]:
            table = (table.unsqueeze(-1) + log_q.unsqueeze(1)).flatten(1)
        return table


class MeanField(Marginals):
    """A mean-field posterior whose KL(q || p) no single factor can lower, by coordinate ascent from the exact marginals: a local optimum, without amortisation.

    Each variable in turn: log q_i(k) = E_{q without i}[log p(x, z)] + constant (Bishop, 2006, eq. 10.9), the expectation by enumeration.
    """

    moved = float("inf")

    def step(self, rows: Int[Tensor, " B"], done: float) -> None:
        """One sweep over all variables, on the test data themselves: there is no amortisation to pay for; none once the marginals stand still."""
        if self.moved < 1e-6:
            return
        before = [log_q.exp() for log_q in self.log_q]
        self._sweep()
        self.moved = max(float((log_q.exp() - old).abs().max()) for log_q, old in zip(self.log_q, before, strict=True))

    def _sweep(self) -> None:
        sizes = self.problem.exact.layout.cardinalities
        log_joint = self.problem.exact.log_p.view(-1, *sizes)
        for i, k in enumerate(sizes):
            rest = log_joint.movedim(i + 1, 1)
            for j, log_q in reversed([(j, log_q) for j, log_q in enumerate(self.log_q) if j != i]):
                weight = log_q.exp().view(len(log_q), *[1] * (rest.ndim - 2), sizes[j])
                rest = torch.where(weight > 0, weight * rest, 0.0).sum(-1)
            self.log_q[i] = rest.view(-1, k).log_softmax(-1)
