"""Interoperation with torchgfn (Lahlou et al., 2023): its samplers drive our posterior, its trajectory losses train it.

A code sequence z is a trajectory s_0 -> (z_1) -> ... -> (z_1, ..., z_N) -> s_f that writes one code a step and then leaves: N + 1 actions, of which the
last has probability one. Sites are written in a fixed order, so the graph of states is a tree and P_B = 1: pass ``pb=None, constant_pb=True``.

torchgfn asks its policy anew at every prefix, N + 1 sequences for each z. :func:`to_trajectories` hands over what one teacher-forced pass of our posterior
has computed instead; with ``recalculate_all_logprobs=False`` any trajectory loss then trains the posterior through it.

The reward is p(x, z), and log Z is log p(x), one for each x: conditions are the numbers of the data, and whatever depends on x is looked up by them, so
that an image is encoded once. torchgfn's ``LogPartitionVarianceGFlowNet`` centres over the whole batch: with several x in it the variance of log p(x)
between them stays in the loss, and a perfect posterior does not reach zero. Give it the samples of one x at a time, or use ``phases.LogVariance``.

Written against the published wheel, version 2.4.
"""

import warnings
from collections.abc import Callable
from typing import Any, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from latentcomp.codes.distribution import CodeDistribution
from latentcomp.enumeration import all_codes
from latentcomp.model import LatentVariableModel
from latentcomp.phases.e_step import AmortisedLogZ
from latentcomp.phases.flows import PrefixFlow
from latentcomp.posteriors.posterior import Posterior

try:
    from gfn.actions import Actions
    from gfn.containers import Trajectories
    from gfn.env import DiscreteEnv, Env
    from gfn.estimators import DiscretePolicyEstimator, ScalarEstimator
    from gfn.gflownet import SubTBGFlowNet
    from gfn.preprocessors import IdentityPreprocessor
    from gfn.states import DiscreteStates, States
except ImportError as missing:
    raise ImportError("latentcomp.torchgfn needs the package torchgfn: pip install 'latentcomp[torchgfn]'") from missing

EXACT = 2**24  # numbers of data up to here are whole in float32, which torchgfn demands of conditions
LogReward = Callable[[Int[Tensor, "R N"], Float[Tensor, "R C"] | None], Float[Tensor, " R"]]


class CodeEnv(DiscreteEnv):
    """Code sequences of fixed length as a torchgfn environment; action k writes the code k at the next site, action K = max K_i leaves.

    Args:
        cardinalities: K_i of each of the N sites.
        log_reward: log R of complete codes ``(R, N)``, given their conditions ``(R, C)`` or None; in nats, ``(R,)``. No gradient passes it.
        device: where states live.
        debug: torchgfn's own run-time checks.

    Raises:
        ValueError: there is no site, or a site without codes.
    """

    def __init__(self, cardinalities: tuple[int, ...], log_reward: LogReward, device: torch.device | None = None, debug: bool = False) -> None:
        if not cardinalities or min(cardinalities) < 1:
            raise ValueError(f"an environment needs at least one site, and each site at least one code; got cardinalities {tuple(cardinalities)}")
        self.cardinalities, self._log_reward, self.data = tuple(cardinalities), log_reward, 0
        sites, largest = len(cardinalities), max(cardinalities)
        allowed = torch.arange(largest + 1, device=device) < torch.tensor([*cardinalities, 0], device=device).unsqueeze(-1)
        allowed[-1, -1] = True  # when all sites are written there is nothing to do but leave
        self._allowed = allowed
        empty = torch.full((sites,), -1, device=device)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # with debug=True torchgfn warns of any sink but its own, which cannot be made of integers
            super().__init__(largest + 1, empty, (sites,), sf=torch.full_like(empty, largest), debug=debug)

    @classmethod
    def of(cls, model: LatentVariableModel, x: Tensor, c: Tensor | None = None, debug: bool = False) -> "CodeEnv":
        """The environment whose reward for condition b is p(x_b, z).

        Args:
            model: p(x, z), at every call as it then is.
            x: ``(B, C, H, W)`` the data.
            c: their conditions in the prior, or None.
            debug: torchgfn's own run-time checks.

        Raises:
            ValueError: the images do not fit the model, or are too many to be numbered in float32.
        """
        model.check_shape(x)
        if len(x) > EXACT:
            raise ValueError(f"conditions are the numbers of the data, which float32 counts up to {EXACT}; got {len(x)} images: split them")

        def log_joint(z: Tensor, conditions: Tensor | None) -> Tensor:
            rows = row_numbers(conditions, len(x), len(z), z.device)
            return model.log_joint(x[rows], z, None if c is None else c[rows])

        env = cls(model.cardinalities, log_joint, x.device, debug)
        env.data = len(x)
        return env

    def conditions(self, samples: int = 1) -> Float[Tensor, "SB 1"]:
        """The numbers of all B data, ``samples`` times over: what ``sample_trajectories(conditions=...)`` wants, in the order of codes ``(S, B, N)``.

        Raises:
            ValueError: the environment has no data; make it with ``CodeEnv.of``.
        """
        if not self.data:
            raise ValueError("this environment was made from a reward, not from data, so it cannot number them: pass conditions of your own")
        return torch.arange(self.data, device=self.device, dtype=torch.get_default_dtype()).repeat(samples).unsqueeze(-1)

    def make_states_class(self) -> type[DiscreteStates]:
        """Prefixes, filled up with -1; the sink is filled with K."""
        env = self

        class Prefixes(DiscreteStates):
            """Code sequences of which the first sites are written."""

            state_shape, s0, sf, n_actions = env.state_shape, env.s0, env.sf, env.n_actions
            make_random_states = env.make_random_states

            def _compute_forward_masks(self) -> Bool[Tensor, "*rows K1"]:
                return env._allowed[written(self.tensor)]

            def _compute_backward_masks(self) -> Bool[Tensor, "*rows K"]:
                last = (written(self.tensor) - 1).clamp_min(0)
                code = self.tensor.gather(-1, last.unsqueeze(-1))
                return (torch.arange(self.n_actions - 1, device=code.device) == code) & ~self.is_sink_state.unsqueeze(-1)

        return Prefixes

    def step(self, states: DiscreteStates, actions: Actions) -> DiscreteStates:
        """Writes a code at the next site of each row."""
        return cast(DiscreteStates, self.States(states.tensor.scatter(-1, written(states.tensor).unsqueeze(-1), actions.tensor)))

    def backward_step(self, states: DiscreteStates, actions: Actions) -> DiscreteStates:
        """Takes back the code that was written last."""
        last = written(states.tensor).unsqueeze(-1) - 1
        return cast(DiscreteStates, self.States(states.tensor.scatter(-1, last, -torch.ones_like(actions.tensor))))

    @torch.no_grad()
    def log_reward(self, states: DiscreteStates) -> Float[Tensor, "*rows"]:
        """log R of complete codes, in nats, without a gradient: the model must not learn from a policy's loss."""
        conditions = None if states.conditions is None else states.conditions.flatten(0, -2)
        return self._log_reward(states.tensor.flatten(0, -2), conditions).view(states.batch_shape)

    def log_partition(self, condition: Tensor | None = None) -> float:
        """log Z of one condition, by enumeration: log p(x)."""
        return float(self._all_log_rewards(condition).logsumexp(0))

    def true_dist(self, condition: Tensor | None = None) -> Float[Tensor, " M"]:
        """The target of one condition over all codes, in the order of ``all_codes``: p(z|x)."""
        return self._all_log_rewards(condition).softmax(0)

    @torch.no_grad()
    def _all_log_rewards(self, condition: Tensor | None) -> Float[Tensor, " M"]:
        z = all_codes(self.cardinalities, self.device)
        return self._log_reward(z, None if condition is None else condition.reshape(1, -1).expand(len(z), -1))

    def get_terminating_states_indices(self, states: DiscreteStates) -> Int[Tensor, "*rows"]:
        """The place of complete codes in ``all_codes``."""
        place = torch.zeros(states.batch_shape, dtype=torch.long, device=states.device)
        for site, k in enumerate(self.cardinalities):
            place = place * k + states.tensor[..., site]
        return place

    @property
    def n_terminating_states(self) -> int:
        """M = prod_i K_i."""
        return int(torch.tensor(self.cardinalities, dtype=torch.float64).prod())

    @property
    def terminating_states(self) -> DiscreteStates:
        """All complete codes."""
        return cast(DiscreteStates, self.States(all_codes(self.cardinalities, self.device)))


class PolicyEstimator(DiscretePolicyEstimator):
    """Our posterior as the forward policy that stock samplers drive. Call :meth:`read` first, and again after each update.

    Args:
        posterior: with conditionals of single sites: ``Autoregressive`` or ``Factorised``.
        env: says how many actions there are.
    """

    def __init__(self, posterior: Posterior, env: CodeEnv) -> None:
        super().__init__(posterior, env.n_actions, IdentityPreprocessor(len(env.cardinalities)))
        self._q: CodeDistribution | None = None

    def read(self, model: LatentVariableModel, x: Tensor, c: Tensor | None = None) -> CodeDistribution:
        """Encodes the data once; a condition is a row of them. Returns q(z|x), for :func:`to_trajectories`."""
        self._q = self.module(model, x, c)
        return self.q

    @property
    def q(self) -> CodeDistribution:
        """The posterior of the data that were read.

        Raises:
            RuntimeError: none were.
        """
        if self._q is None:
            raise RuntimeError("the policy has read no data yet: call read(model, x) before torchgfn asks it, and again after each update")
        return self._q

    def forward(self, states: States, conditions: Tensor | None = None) -> Float[Tensor, "R K1"]:
        """log q of the next code of each row, and zero for the exit; what cannot be done is masked by the states.

        Raises:
            RuntimeError: no data were read.
            ValueError: a condition is no number of a datum.
        """
        z = states.tensor
        q = self.q.select(row_numbers(conditions, self.q.batch_shape.numel(), len(z), z.device))
        site = written(z).clamp_max(z.shape[-1] - 1)
        log_p = q.conditionals(z.clamp_min(0)).gather(-2, site[:, None, None].expand(-1, 1, max(q.cardinalities))).squeeze(-2)
        return nn.functional.pad(log_p, (0, 1))


class LogZEstimator(ScalarEstimator):
    """log Z(x) for ``TBGFlowNet(logZ=...)``.

    Args:
        log_z: a head on the posterior's features of x.
        policy: has read the data.
    """

    def __init__(self, log_z: AmortisedLogZ, policy: PolicyEstimator) -> None:
        super().__init__(log_z, policy.preprocessor)
        self._policy = (policy,)  # in a tuple it is no submodule: its parameters are not those of log Z

    def forward(self, conditions: Tensor) -> Float[Tensor, "R 1"]:
        """log Z of each condition."""
        q = self._policy[0].q
        return self.module(q)[row_numbers(conditions, q.batch_shape.numel(), len(conditions), conditions.device)].unsqueeze(-1)


class TeacherForcedSubTB(SubTBGFlowNet):
    """torchgfn's sub-trajectory balance with the flows of all prefixes from one pass; the flow of a complete code is its reward.

    Stock ``SubTBGFlowNet`` asks a flow estimator at every prefix, and has it learn the reward, too.

    Args:
        policy: has read the data.
        flow: the head of the posterior's features of the prefix.
        settings: of ``SubTBGFlowNet``, such as ``weighting``.
    """

    def __init__(self, policy: PolicyEstimator, flow: PrefixFlow, **settings: Any) -> None:
        super().__init__(policy, None, ScalarEstimator(flow, policy.preprocessor), constant_pb=True, **settings)

    def calculate_log_state_flows(self, env: Env, trajectories: Trajectories, log_pf_trajectories: Tensor) -> Float[Tensor, "N1 R"]:
        """log F of the prefixes, the empty one first."""
        z, conditions = trajectories.states.tensor[-2], trajectories.states.conditions
        q = self.pf.q
        chosen = q.select(row_numbers(None if conditions is None else conditions[0], q.batch_shape.numel(), len(z), z.device))
        return torch.cat([self.logF.module(chosen, z.unsqueeze(0))[0].T, trajectories.log_rewards.unsqueeze(0)])


def to_trajectories(
    env: CodeEnv, z: Int[Tensor, "*S B N"], log_q_steps: Float[Tensor, "*S B N"], log_rewards: Tensor | None = None, conditions: Tensor | None = None
) -> Trajectories:
    """Complete codes as torchgfn's trajectories, whose log-probabilities are those of one teacher-forced pass; R = S B of them.

    Pass ``recalculate_all_logprobs=False`` to the loss.

    Args:
        env: where they were written.
        z: the codes, from any behaviour policy.
        log_q_steps: ``q.log_prob_steps(z)``, with a gradient in phi.
        log_rewards: log p(x, z) ``(*S, B)`` in nats, where it is known already; else the environment computes it when it is asked.
        conditions: ``(R, C)``; by default ``env.conditions(S)``, or none where the environment has no data.

    Raises:
        ValueError: shapes do not agree with each other or with the environment.
    """
    sites = len(env.cardinalities)
    if z.shape != log_q_steps.shape or z.shape[-1] != sites:
        raise ValueError(f"codes and log_q_steps must both have shape (*S, B, {sites}); got {tuple(z.shape)} and {tuple(log_q_steps.shape)}")
    z, log_q_steps = z.flatten(0, -2), log_q_steps.flatten(0, -2)
    if conditions is None and env.data:
        if len(z) % env.data:
            raise ValueError(f"{len(z)} codes are not a whole number of samples for each of the environment's {env.data} data: pass z of shape (S, B, N)")
        conditions = env.conditions(len(z) // env.data)
    seen = torch.ones(sites + 1, sites, dtype=torch.bool, device=z.device).tril(-1)  # state t has written the first t sites
    prefixes = torch.where(seen.unsqueeze(1), z, -1)
    states = env.states_from_tensor(torch.cat([prefixes, env.sf.expand(1, *z.shape)]))
    if conditions is not None:
        states.conditions = conditions.expand(sites + 2, *conditions.shape).contiguous()
    leave = z.new_full((1, len(z)), env.n_actions - 1)
    return Trajectories(
        env,
        states,
        env.actions_from_tensor(torch.cat([z.T, leave]).unsqueeze(-1)),
        z.new_full((len(z),), sites + 1),
        log_rewards=None if log_rewards is None else log_rewards.detach().flatten(),
        log_probs=torch.cat([log_q_steps.T, log_q_steps.new_zeros(1, len(z))]),
    )


def written(states: Int[Tensor, "*rows N"]) -> Int[Tensor, "*rows"]:
    """How many sites are written."""
    return (states >= 0).sum(-1)


def row_numbers(conditions: Tensor | None, data: int, rows: int, device: torch.device) -> Int[Tensor, " R"]:
    """The datum of each row; without conditions there can be only one.

    Raises:
        ValueError: there are several data and no conditions, or conditions of another width.
    """
    if conditions is None:
        if data != 1:
            raise ValueError(f"there are {data} data: pass conditions=env.conditions(samples), which say whose codes are sampled")
        return torch.zeros(rows, dtype=torch.long, device=device)
    if conditions.shape[-1] != 1:
        raise ValueError(f"a condition is the number of a datum, of shape (R, 1); got {tuple(conditions.shape)}: pass env.conditions(samples)")
    return conditions[..., 0].long()
