"""Which options a procedure honours. One that it cannot honour is refused before anything runs: an option that is silently ignored is a wrong result.

Options here are those settings of conf/config.yaml that say how a run is carried out and judged, whatever its model and learner are. A procedure of
somebody else's, which does not stand here, is taken to honour all of them.
"""

import os
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

DEFAULTS = OmegaConf.load(Path(__file__).parent / "conf" / "config.yaml")
DESCENT = ("rates", "schedule", "average", "clip")
SECOND = ("prior", "proposal")  # what log p(x) is judged with
MACHINE = ("precision", *(f"machine.{key}" for key in DEFAULTS.machine), *(f"log.{key}" for key in DEFAULTS.log))
OPTIONS = (*DESCENT, *SECOND, "also", *MACHINE)
IDLE: dict[str, Any] = {"log.tensorboard": False, "log.pictures": False}  # what is asked for here, a procedure without a log does anyway


class Procedure(NamedTuple):
    """What a procedure honours.

    Attributes:
        honours: its options.
        why: it honours no others.
    """

    honours: tuple[str, ...]
    why: str = ""


_IMAGES = Procedure((*DESCENT, *MACHINE), "it reads its pictures from a folder, and estimates no log p(x)")
_TAMING = Procedure((*DESCENT, *MACHINE), "it compares codes and pictures by measures of its own, and estimates no log p(x)")
PROCEDURES = {
    "experiments.execute.execute": Procedure(OPTIONS),
    "experiments.first_stage.execute": Procedure((*DESCENT, "also", *MACHINE), "an energy has no log p(x), so that no prior and no proposal is fitted"),
    "experiments.second_stage.execute": Procedure((*DESCENT, "prior", "also", *MACHINE), "its prior is what is learned, and no proposal is fitted"),
    "experiments.collapse.execute": Procedure((*DESCENT, "also", *MACHINE), "it counts codes, and estimates no log p(x)"),
    "experiments.amortisation.execute": Procedure(
        ("rates", "average", "clip", "also", *MACHINE), "its model is frozen and enumerated, and its rate falls along one cosine for all rows"
    ),
    "experiments.own_images.first_stage.execute": _IMAGES,
    "experiments.own_images.second_stage.execute": _IMAGES,
    "experiments.taming.reconstruction.execute": _TAMING,
    "experiments.taming.second.execute": _TAMING,
    "experiments.mixture.run.execute": Procedure(
        (), "it advances all starts of a row in one computation on the CPU, in the precision that its dtype says, for seconds"
    ),
    "experiments.gradients.run.execute": Procedure((), "it enumerates the gradients of a frozen model in float64, and trains nothing"),
    "experiments.programs.run.execute": Procedure((), "each of its methods trains five Pyro programs by its own optimiser, in one process on the CPU"),
}


class RefusedOption(SystemExit):
    """An option that the procedure does not honour; the message names both, and says what to do."""


def refuse(config: DictConfig) -> None:
    """Refuses what the configuration's procedure does not honour.

    Raises:
        RefusedOption: an option is not what it is by default, and the procedure would ignore it.
    """
    procedure = PROCEDURES.get(config.procedure)
    if procedure is None:
        return
    for option in OPTIONS:
        value, usual = OmegaConf.select(config, option), OmegaConf.select(DEFAULTS, option)
        idle = option in IDLE and value == IDLE[option]
        if option not in procedure.honours and value != usual and not idle:
            raise _refused(f"{option}={_said(value)}", config.procedure, procedure.why, f"leave {option} at {_said(usual)}, its default")
    if "machine.devices" not in procedure.honours and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise _refused("torchrun's several processes", config.procedure, procedure.why, "start it with python alone")


def _refused(what: str, name: str, why: str, remedy: str) -> RefusedOption:
    return RefusedOption(f"error: {name} cannot honour {what}: {why}. For this run, {remedy}; docs/running.md says which procedure honours what")


def _said(value: Any) -> str:
    """As on the command line."""
    if OmegaConf.is_config(value):
        return "{...}"
    return {None: "null", True: "true", False: "false"}.get(value, str(value)) if isinstance(value, bool | None) else str(value)
