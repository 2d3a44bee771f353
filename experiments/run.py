"""One run of one row: ``python -m experiments.run experiment=digits/gflownet_em seed=1``.

Any setting of conf/config.yaml can be overridden; ``--help`` shows them, ``--multirun seed=0,1,2`` sweeps. The folder of the run holds results.json,
pictures.pt, images, and under states/ its checkpoints and logs. The same command goes on where a run stopped. Exit codes: 0 done, 75 stopped by a signal and
saved, 1 failed (docs/running.md).
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_method
from omegaconf import DictConfig
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from experiments.results import write_json
from experiments.settings import composed
from latentcomp import processes
from latentcomp.checkpoint import save_data
from latentcomp.locks import Locked
from latentcomp.signals import Interrupted
from latentcomp.train import NonFiniteLoss


def _bar() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Speed(), TextColumn("left:"), TimeRemainingColumn())
    return Progress(*columns)


def _progress(bar: Progress, task: TaskID) -> Callable[[int], None]:
    """Moves the bar, which the first process alone draws, from its first step on: before it, the procedure has not launched the processes."""

    def move(step: int) -> None:
        if processes.rank() == 0:
            bar.start()
            bar.update(task, completed=step)

    return move


class Speed(ProgressColumn):
    """Batches a second, over the last of them."""

    def render(self, task: Task) -> Text:
        """Such as ``12.3/s``."""
        return Text("" if task.speed is None else f"{task.speed:.1f}/s")


def line(record: dict[str, Any]) -> str:
    """A number with its name and unit; where there is none, or it is flagged, why."""
    value = "–" if record["value"] is None else f"{record['value']:.4f}"
    reason = f"  {record['reason']}" if record.get("reason") else ""
    return f"{record['metric']:28s} {value:>12s} {record['unit']}{reason}"


@hydra.main(config_path="conf", config_name="config", version_base="1.3")
def run(config: DictConfig) -> None:
    """Trains, judges, writes, prints."""
    choice = HydraConfig.get().runtime.choices["experiment"]
    folder = Path(HydraConfig.get().runtime.output_dir)
    bar = _bar()
    task = bar.add_task(f"{choice}, seed {config.seed}", total=config.batches)
    try:
        records, pictures = get_method(config.procedure)(config, Path(choice).name, _progress(bar, task), folder)
    except (NonFiniteLoss, processes.PeerFailed, Locked) as error:  # of the process that failed, its own traceback stands above
        raise SystemExit(f"error: {error}") from None
    except Interrupted as error:
        bar.console.print(str(error))
        raise
    finally:
        bar.live.stop()
    if processes.rank() > 0:
        return
    write_json(folder / "results.json", records)
    save_data(folder / "pictures.pt", pictures)
    for record in records:
        print(line(record))
    print(f"written to {folder}")


if __name__ == "__main__":
    if not any(argument.startswith("-") for argument in sys.argv[1:]):
        composed(sys.argv[1:])  # refuses what does not exist, with a list of what does
    run()
