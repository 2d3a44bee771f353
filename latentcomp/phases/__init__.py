"""The parts that learners are composed of: E-step objectives, behaviour policies, schedules, M-steps, sleep phases, temperature schedules, critics."""

from latentcomp.phases.anneal import Constant, Cosine, Exponential
from latentcomp.phases.behaviour import Behaviour, Exploring, FromPosterior, Mixed, Moved, OnPolicy
from latentcomp.phases.chains import Chains
from latentcomp.phases.code_entropy import CodeEntropy
from latentcomp.phases.critic import AdaptiveWeight, Critic, FixedWeight, LeCAM, Ramp
from latentcomp.phases.e_step import (
    AmortisedLogZ,
    CrossEntropy,
    LeaveOneOut,
    LogVariance,
    MultiSample,
    Objective,
    ScalarLogZ,
    TrajectoryBalance,
    Truncated,
    WakePhi,
)
from latentcomp.phases.flows import DetailedBalance, PrefixFlow, SubTrajectoryBalance
from latentcomp.phases.games import GAMES, Game
from latentcomp.phases.m_step import Greedy, ImportanceWeighted, Marginalised, MStep, Remembered, Sampled
from latentcomp.phases.replay import Memory, Replay
from latentcomp.phases.resampled import Resampled
from latentcomp.phases.schedule import EachBatch, OnlyE, Period, Schedule, Threshold, Together
from latentcomp.phases.sleep import Sleep

__all__ = [
    "GAMES", "AdaptiveWeight", "AmortisedLogZ", "Behaviour", "Chains", "CodeEntropy", "Constant", "Cosine", "Critic", "CrossEntropy", "DetailedBalance",
    "EachBatch", "Exploring", "Exponential", "FixedWeight", "FromPosterior", "Game", "Greedy", "ImportanceWeighted", "LeCAM", "LeaveOneOut", "LogVariance",
    "MStep", "Marginalised", "Memory", "Mixed", "Moved", "MultiSample", "Objective", "OnPolicy", "OnlyE", "Period", "PrefixFlow", "Ramp", "Remembered",
    "Replay", "Resampled", "Sampled", "ScalarLogZ", "Schedule", "Sleep", "SubTrajectoryBalance", "Threshold", "Together", "TrajectoryBalance", "Truncated",
    "WakePhi",
]  # fmt: skip
