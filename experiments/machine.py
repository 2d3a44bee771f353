"""How a run of the experiments is carried out: on which device, by how many processes, where it saves itself and what it writes on the way.

Nothing of it changes what a run is, so it is no part of a result's configuration.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from experiments.watching.log import CSV, Log, TensorBoard, WandB, Writer
from latentcomp import __version__, processes
from latentcomp.checkpoint import save_data
from latentcomp.checkpoints import Checkpoints
from latentcomp.data.split import Split
from latentcomp.engine import Engine
from latentcomp.evaluate.training import Machine
from latentcomp.learners.learner import Learner
from latentcomp.model import LatentVariableModel
from latentcomp.train import NonFiniteLoss


def fabric(config: DictConfig) -> Any:
    """A launched Fabric, or None where a run needs none: one process on the CPU in float32.

    Raises:
        SystemExit: lightning-fabric is missing.
    """
    machine = config.machine
    accelerator = "cpu" if machine.accelerator == "auto" and not torch.accelerator.is_available() else machine.accelerator
    if (accelerator, machine.devices, machine.nodes, config.precision) == ("cpu", 1, 1, "32-true") and "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    try:
        from lightning_fabric import Fabric
        from lightning_fabric.strategies import DDPStrategy
    except ImportError:
        raise SystemExit("error: other devices, precisions and numbers of processes need Fabric: pip install 'latentcomp[engine]'") from None
    settings = {"accelerator": accelerator, "devices": machine.devices, "num_nodes": machine.nodes, "precision": config.precision}
    made = Fabric(strategy=machine.strategy, **settings)
    if machine.strategy in ("auto", "ddp") and isinstance(made.strategy, DDPStrategy):  # a process that waits for one that was lost gives up in time
        made = Fabric(strategy=DDPStrategy(timeout=timedelta(seconds=machine.timeout)), **settings)
    made.launch()
    return made


def on_device(data: Split, made: Any) -> Split:
    """The data where Fabric computes, and in its precision."""
    engine = Engine(made)
    return data._replace(**{name: engine.placed(part) for name, part in data._asdict().items() if isinstance(part, Tensor)})


def digest(identity: Mapping[str, Any]) -> str:
    """A short name for what a run is."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]


def machine(config: DictConfig, identity: Mapping[str, Any], folder: Path | None, made: Any, each: Any = None) -> Machine:
    """Checkpoints and logs under the folder, in a subfolder of the run's identity, so that the same command goes on and another begins anew.

    Args:
        config: of the run.
        identity: what makes it this run.
        folder: of the run; None for neither checkpoints nor logs.
        made: a Fabric or None.
        each: called with the number of every step.

    Raises:
        Locked: another process carries out this very run.
    """
    settings = config.machine
    if folder is None:
        return Machine(made, settings.accumulate)
    about = {"version": __version__, **identity}
    own = folder / "states" / digest(about)
    checkpoints = Checkpoints(own, about=about)  # before any log is touched: the folder may be another process's
    log = Log(_writers(config, own) if processes.rank() == 0 else {}, config.log.every, each)
    return Machine(made, settings.accumulate, checkpoints, settings.save_every, log)


def _writers(config: DictConfig, folder: Path) -> dict[str, Writer]:
    writers: dict[str, Writer] = {"csv": CSV(folder / "metrics.csv")}
    if config.log.tensorboard:
        writers["tensorboard"] = TensorBoard(folder / "tensorboard")
    if config.log.wandb:
        writers["wandb"] = WandB(config.log.wandb, f"{folder.parents[2].name}-{folder.parents[1].name}-{folder.name}", folder)
    return writers


def keep_failure(error: NonFiniteLoss, model: LatentVariableModel, learner: Learner, folder: Path | None) -> NonFiniteLoss:
    """Saves the batch that a run stopped at, with the states that it met, and says where, or why it could not: the error that stopped the run comes first."""
    if folder is None or error.batch is None:
        return error
    path = folder / f"non_finite-{processes.rank()}.pt"
    batch = {key: value.cpu() for key, value in error.batch._asdict().items() if isinstance(value, torch.Tensor)}
    states = {"model": model.state_dict(), "learner": learner.state_dict()}
    try:
        save_data(path, {"step": error.step, "learner": error.learner, "term": error.term, "batch": batch, "states": states})
        kept = f"The batch and the states that it met are in {path}"
    except OSError as failure:
        kept = f"The batch and the states that it met could not be written to {path} ({failure})"
    return NonFiniteLoss(f"{error}. {kept}", error.step, error.learner, error.term, error.batch)
