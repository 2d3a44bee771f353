"""Runs side by side that are stopped: none begins any more, and the exit code says that the same command goes on."""

import pickle
import threading
from concurrent.futures import BrokenExecutor, Future, ThreadPoolExecutor

import pytest

from experiments import pool
from experiments.reproduce import _failed, parsed, reproduce
from latentcomp.signals import INTERRUPTED, Interrupted


class Threads(ThreadPoolExecutor):
    """In place of processes, which take seconds to begin."""

    def __init__(self, workers, *_):
        super().__init__(workers)


def test_all_jobs_end_and_one_that_raises_yields_its_error(monkeypatch):
    monkeypatch.setattr(pool, "ProcessPoolExecutor", Threads)
    ended = dict(pool.side_by_side(lambda i: 12 // i, [(i,) for i in range(9)], list("abcdefghi"), [1] * 9))
    assert isinstance(ended.pop(0), ZeroDivisionError)
    assert ended == {i: 12 // i for i in range(1, 9)}


def test_after_ctrl_c_no_other_job_begins(monkeypatch):
    monkeypatch.setattr(pool, "ProcessPoolExecutor", Threads)
    monkeypatch.setattr(pool.os, "cpu_count", lambda: 2)
    begun, stopped = [], threading.Event()

    def job(number: int) -> None:
        begun.append(number)
        if number:
            stopped.wait(30)

    results = pool.side_by_side(job, [(i,) for i in range(8)], list("abcdefgh"), [1] * 8)
    assert next(results) == (0, None)
    threading.Timer(0.2, stopped.set).start()
    with pytest.raises(KeyboardInterrupt):
        results.throw(KeyboardInterrupt())
    assert set(begun) <= {0, 1}


def test_a_pool_that_has_lost_a_process_fails_the_jobs_that_are_left(monkeypatch):
    class Broken(Threads):
        """Takes nothing."""

        def submit(self, *_) -> Future:
            """Refuses."""
            raise BrokenExecutor("a process died")

    monkeypatch.setattr(pool, "ProcessPoolExecutor", Broken)
    assert [str(error) for _, error in pool.side_by_side(print, [(1,), (2,), (3,)], list("abc"), [1] * 3)] == ["a process died"] * 3


def test_an_interruption_is_still_one_when_it_comes_from_another_process():
    error = pickle.loads(pickle.dumps(Interrupted("saved")))
    assert (error.code, str(error)) == (INTERRUPTED, "saved")


def test_the_exit_code_of_a_table_that_was_stopped(monkeypatch, tmp_path):
    def stopped(*_):
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(pool, "side_by_side", stopped)
    with pytest.raises(Interrupted, match="stopped; the runs that are done are kept"):
        reproduce(parsed(["digits", "budget=smoke", "seeds=1", f"outputs={tmp_path}"]))
    one, other = ("a", Interrupted("saved")), ("b", ValueError("x"))
    assert _failed([one, one]).code == INTERRUPTED
    assert str(_failed([one, other]).code).startswith("error: these runs failed")
