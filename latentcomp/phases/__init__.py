"""The parts that learners are composed of: E-step objectives, behaviour policies, schedules, M-steps, sleep phases, temperature schedules."""
