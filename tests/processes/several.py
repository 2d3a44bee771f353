"""Two processes on the CPU that run a list of functions of this folder's tests: forked once, since imports take seconds.

A function is named ``module:function``; it is called in both processes, and what it returns comes back from each, or its error.
"""

import importlib
import os
import socket
import traceback
from functools import partial
from pathlib import Path
from typing import Any

import jaxtyping
import torch

from tests.faults.victims import forked, waited


def free_port() -> int:
    """A port that nobody listens to."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def environment(rank: int, count: int, port: int) -> dict[str, str]:
    """What torchrun would set."""
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo", "TORCHELASTIC_RUN_ID": "test", "GROUP_RANK": "0"}
    place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "OMP_NUM_THREADS": "1"}
    return address | place


def outcomes(folder: Path, functions: list[str], count: int = 2) -> dict[str, list[Any]]:
    """What each function returned in each process."""
    port = free_port()

    def process(rank: int) -> None:
        os.environ.update(environment(rank, count, port))
        jaxtyping.config.update("jaxtyping_disable", True)  # the same calls are checked in the process of the test
        main(folder, *functions)

    codes = [waited(child) for child in [forked(partial(process, rank)) for rank in range(count)]]
    assert codes == [0] * count, f"the processes ended with {codes}"
    results = [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(count)]
    return {function: [result[function] for result in results] for function in functions}


def main(folder: Path, *functions: str) -> None:
    """One of the processes."""
    from lightning_fabric import Fabric

    torch.set_num_threads(1)
    fabric = Fabric(accelerator="cpu", devices=int(os.environ["WORLD_SIZE"]), strategy="ddp", precision="64-true")
    fabric.launch()
    results: dict[str, Any] = {}
    for name in functions:
        module, _, function = name.partition(":")
        function, _, argument = function.partition("/")
        try:
            results[name] = getattr(importlib.import_module(module), function)(fabric, *([argument] if argument else []))
        except Exception as error:
            traceback.print_exc()
            results[name] = f"{type(error).__name__}: {error}"
        fabric.barrier()
    torch.save(results, folder / f"{fabric.global_rank}.pt")
    torch.distributed.destroy_process_group()
