"""SIGKILL at any moment: what survives is the run, bit for bit, from its last save on, and never half a checkpoint."""

import random
from functools import partial
from pathlib import Path

import pytest

from latentcomp.checkpoints import Checkpoints, read
from tests.faults.victims import assert_same_end, forked, killed, run, seeded, timed, waited
from tests.learners.contract import LEARNERS, WHOLE

pytestmark = pytest.mark.usefixtures("unchecked")


def survives(name: str, folder: Path, kills: int, draws: random.Random, updates: int = 24) -> int:
    """Kills a run so many times, each time at a moment drawn over the whole of it, lets it end, and compares it; says how many kills fell into a save."""
    whole, victim = folder / f"{name}-whole", folder / name
    seconds = timed(lambda: run(name, whole, updates))
    inside = made = 0
    while made < kills:
        delay = draws.uniform(0, seconds)
        if not killed(partial(run, name, victim, updates), delay):
            assert_same_end(victim, whole)  # it was faster than the kill: another run, another time
            victim = folder / f"{name}-{made}-{delay}"
            continue
        made += 1
        checkpoints = victim / "checkpoints"
        inside += any(checkpoints.glob(".*.part"))
        for path in checkpoints.glob("step-*"):
            read(path)  # whole and undamaged, or an error
    assert waited(forked(lambda: run(name, victim, updates))) == 0
    assert_same_end(victim, whole)
    assert not list((victim / "checkpoints").glob(".*"))
    assert len(Checkpoints(victim / "checkpoints").paths()) in (2, 3), "the last two, and the best where it is another"
    return inside


@pytest.mark.parametrize("name", ["vq_ema_restart", "gflownet_replay"])
def test_a_killed_run_ends_as_if_it_had_not_been(name, tmp_path):
    survives(name, tmp_path, 1, seeded(), 8)


@pytest.mark.slow
def test_every_learner_survives_two_kills_and_some_fall_into_a_save(tmp_path):
    draws = seeded()
    inside = {name: survives(name, tmp_path, 2, draws) for name in (*LEARNERS, *WHOLE)}
    print(f"{2 * len(inside)} kills, {sum(inside.values())} inside a save: {inside}")
    assert sum(inside.values()) >= 5
