"""The parts that learners are composed of: E-step objectives, behaviour policies, schedules, M-steps, sleep phases, temperature schedules."""

from latentcomp.phases.anneal import Constant, Exponential
from latentcomp.phases.behaviour import Behaviour, Exploring, FromPosterior, Mixed, Moved, OnPolicy
from latentcomp.phases.chains import Chains
from latentcomp.phases.code_entropy import CodeEntropy
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
from latentcomp.phases.m_step import Greedy, ImportanceWeighted, Marginalised, MStep, Remembered, Sampled
from latentcomp.phases.replay import Memory, Replay
from latentcomp.phases.schedule import EachBatch, OnlyE, Period, Schedule, Threshold, Together
from latentcomp.phases.sleep import Sleep

__all__ = [
    "AmortisedLogZ", "Behaviour", "Chains", "CodeEntropy", "Constant", "CrossEntropy", "DetailedBalance", "EachBatch", "Exploring", "Exponential",
    "FromPosterior", "Greedy", "ImportanceWeighted", "LeaveOneOut", "LogVariance", "MStep", "Marginalised", "Memory", "Mixed", "Moved", "MultiSample",
    "Objective", "OnPolicy", "OnlyE", "Period", "PrefixFlow", "Remembered", "Replay", "Sampled", "ScalarLogZ", "Schedule", "Sleep", "SubTrajectoryBalance",
    "Threshold", "Together", "TrajectoryBalance", "Truncated", "WakePhi",
]  # fmt: skip
