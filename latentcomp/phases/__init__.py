"""The parts that learners are composed of: E-step objectives, behaviour policies, schedules, M-steps, sleep phases, temperature schedules."""

from latentcomp.phases.anneal import Constant, Exponential
from latentcomp.phases.behaviour import Behaviour, Exploring, FromPosterior, Mixed, Moved, OnPolicy
from latentcomp.phases.e_step import AmortisedLogZ, LeaveOneOut, LogVariance, Objective, ScalarLogZ, TrajectoryBalance, WakePhi
from latentcomp.phases.m_step import Greedy, ImportanceWeighted, Marginalised, MStep, Sampled
from latentcomp.phases.replay import Memory, Replay
from latentcomp.phases.schedule import EachBatch, OnlyE, Period, Schedule, Threshold, Together
from latentcomp.phases.sleep import Sleep

__all__ = [
    "AmortisedLogZ", "Behaviour", "Constant", "EachBatch", "Exploring", "Exponential", "FromPosterior", "Greedy", "ImportanceWeighted", "LeaveOneOut",
    "LogVariance", "MStep", "Marginalised", "Memory", "Mixed", "Moved", "Objective", "OnPolicy", "OnlyE", "Period", "Replay", "Sampled", "ScalarLogZ",
    "Schedule", "Sleep", "Threshold", "Together", "TrajectoryBalance", "WakePhi",
]  # fmt: skip
