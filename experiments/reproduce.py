"""A whole table: ``python -m experiments.reproduce NAME [budget=smoke|cpu|full] [seeds=N] [rows=ROW,ROW] [outputs=FOLDER] [setting=value ...]``.

Runs every row with every seed, or those named, skips what is already done, and writes results.json, meta.json, table.md, table.tex and report.html under
outputs/reproduce/NAME/ (other budgets than cpu: NAME-BUDGET/).
"""

import copy
import shlex
import shutil
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from hydra.errors import InstantiationException
from hydra.utils import get_method, instantiate
from omegaconf import DictConfig

from experiments import pool, settings
from experiments.execute import plain
from experiments.report import write as write_report
from experiments.results import Folder
from latentcomp.signals import Interrupted, interruptible

ONE_RUN = "experiments.execute.execute"  # the procedure that trains on ``data``


Run = tuple[str, int]  # a row and a seed
Records = list[dict[str, Any]]


class Request(NamedTuple):
    """What the command line asks for."""

    name: str
    budget: str
    seeds: int | None
    outputs: Path
    overrides: tuple[str, ...]
    rows: tuple[str, ...] = ()  # of the table; none: all


class Table(NamedTuple):
    """A table in the making: its words, the configuration of each row, its seeds and its folder."""

    spec: dict[str, Any]
    configs: dict[str, DictConfig]
    seeds: list[int]
    folder: Folder
    request: Request

    @property
    def runs(self) -> list[Run]:
        """All of its runs, every row of a seed before the next seed."""
        few = self.spec.get("seeds", {})
        return [(row, seed) for seed in self.seeds for row in self.spec["rows"] if seed < few.get(row, len(self.seeds))]

    @property
    def meta(self) -> dict[str, Any]:
        """What the folder says of itself."""
        return {"name": self.request.name, "budget": self.request.budget, "command": _command(self.request), "seeds": self.seeds, "table": self.spec}

    def known(self) -> dict[Run, Records | None]:
        """The records of the runs that are done, None of those that are not."""
        return {(row, seed): self.folder.records(row, seed, plain(_seeded(self.configs[row], seed))) for row, seed in self.runs}


def parsed(arguments: list[str]) -> Request:
    """The command line.

    Raises:
        UnknownName: a table, budget, row or setting that does not exist; lists those that do.
        SystemExit: something is missing or no number.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        raise SystemExit(f"{__doc__}\nTables: {', '.join(settings.tables())}")
    name, *rest = arguments
    options, overrides = {"budget": "cpu", "seeds": "", "rows": "", "outputs": "outputs"}, []
    for argument in rest:
        key, separator, value = argument.partition("=")
        if not separator:
            raise SystemExit(f"error: {argument!r} is no setting: write key=value. Known here: budget=, seeds=, rows=, outputs=, and all settings of a run")
        if key in options:
            options[key] = value
        else:
            overrides.append(argument)
    known = settings.budgets(settings.table(name))
    if options["budget"] not in known:
        raise settings.unknown("budget", options["budget"], known)
    if options["seeds"] and not (options["seeds"].isdigit() and int(options["seeds"]) > 0):
        raise SystemExit(f"error: seeds={options['seeds']} is no number of seeds: give a whole number of 1 or more")
    rows, all_rows = tuple(filter(None, options["rows"].split(","))), settings.table(name)["rows"]
    for row in rows:
        if row not in all_rows:
            raise settings.unknown("row", row, all_rows)
    return Request(name, options["budget"], int(options["seeds"] or 0) or None, Path(options["outputs"]), tuple(overrides), rows)


def several(name: str, row: str, budget: str, seeds: list[int], overrides: tuple[str, ...], folder: Path) -> list[list[dict[str, Any]]]:
    """Runs of one row with these seeds, stored in the table's folder: one after the other, or where the table says ``together``, in one computation."""
    config, method = settings.row(name, row, budget, seeds[0], overrides), settings.table(name).get("together")
    config.log.tensorboard = config.log.pictures = False  # a table's runs keep their checkpoints until they are done, and nothing to watch
    progress, states = pool.Reporter(config.batches), folder / "unfinished" / f"{row}-{seeds[0]}"
    results = get_method(method)(config, row, seeds, progress) if method else [get_method(config.procedure)(config, row, progress, states)]
    for seed, (records, pictures) in zip(seeds, results, strict=True):
        Folder(folder).add(row, seed, records, pictures)
    shutil.rmtree(states, ignore_errors=True)
    return [records for records, _ in results]


def _checked(config: DictConfig) -> None:
    """Reads the data once before all runs do: what is missing is downloaded by one process, and a wrong folder is one error, not one of every run.

    Raises:
        SystemExit: with the error of the data.
    """
    if config.procedure == ONE_RUN and "root" in config.data:
        try:
            instantiate(config.data)
        except InstantiationException as error:
            raise SystemExit(f"error: {error.__cause__ or error}") from error


def _groups(runs: list[tuple[str, int]], together: bool) -> list[tuple[str, list[int]]]:
    """Which runs share a process: each has its own, or all seeds of a row one."""
    if not together:
        return [(row, [seed]) for row, seed in runs]
    return [(row, [seed for other, seed in runs if other == row]) for row in dict.fromkeys(row for row, _ in runs)]


def reproduce(request: Request) -> Path:
    """Runs what is missing, and writes the folder.

    Returns:
        The folder.

    Raises:
        SystemExit: runs failed (they are named, the others are kept), or the folder is of another version or of other settings.
        Interrupted: a signal to this process, which its runs have heard, or to each of the runs that did not end; the same command goes on.
    """
    start = time.monotonic()
    table = _table(request)
    known = table.known()
    missing, before = [run for run in table.runs if known[run] is None], table.folder.meta().get("minutes", 0.0)
    table.folder.describe(table.meta | {"minutes": before})
    if missing:
        _checked(table.configs[table.spec["rows"][0]])
    try:
        known |= _made(request, table, missing)
    finally:
        table.folder.describe(table.meta | {"minutes": before + _minutes(start), "runs_made": len(missing)})
    table.folder.collect([record for run in table.runs for record in known[run] or []])
    write_report(table.folder.path)
    return table.folder.path


def _table(request: Request) -> Table:
    spec = settings.table(request.name)
    spec |= {"rows": [row for row in spec["rows"] if not request.rows or row in request.rows]}
    configs = {row: settings.row(request.name, row, request.budget, 0, request.overrides) for row in spec["rows"]}
    first = configs[spec["rows"][0]]
    seeds = list(range(request.seeds or first.budget.seeds))
    folder = Folder(request.outputs / "reproduce" / (request.name if request.budget == "cpu" else f"{request.name}-{request.budget}"))
    folder.check()
    return Table(settings.worded(spec, first), configs, seeds, folder, request)


def _made(request: Request, table: Table, missing: list[Run]) -> dict[Run, Records | None]:
    """Makes the runs that are missing.

    Raises:
        SystemExit: some failed; those that did not are kept.
        Interrupted: a signal came.
    """
    groups = _groups(missing, "together" in table.spec)
    jobs = [(request.name, row, request.budget, numbers, request.overrides, table.folder.path) for row, numbers in groups]
    names = [f"{row}, seed {', '.join(map(str, numbers))}" for row, numbers in groups]
    steps = [table.configs[row].batches for row, _ in groups]
    failures: list[tuple[str, BaseException]] = []
    made: dict[Run, Records | None] = {}
    try:
        for number, result in pool.side_by_side(several, jobs, names, steps, len(table.runs) - len(missing)):
            if isinstance(result, BaseException):
                failures.append((names[number], result))
            else:
                row, numbers = groups[number]
                made |= {(row, seed): records for seed, records in zip(numbers, result, strict=True)}
    except KeyboardInterrupt:
        raise Interrupted("stopped; the runs that are done are kept, and the same command goes on from there") from None
    except Interrupted:
        if not failures:
            raise
    if failures:
        raise _failed(failures)
    return made


def _minutes(start: float) -> float:
    return (time.monotonic() - start) / 60


def _failed(failures: list[tuple[str, BaseException]]) -> SystemExit:
    """With the code of an interruption where nothing else happened."""
    lines = "\n".join(f"  {name}: {type(error).__name__}: {error}" for name, error in failures)
    if all(isinstance(error, Interrupted) for _, error in failures):
        return Interrupted(f"these runs were stopped; the others are kept, and the same command goes on with these:\n{lines}")
    return SystemExit(f"error: these runs failed; the others are kept, and the same command tries these again:\n{lines}")


def _seeded(config: DictConfig, seed: int) -> DictConfig:
    """The same configuration with another seed; composing it anew would take a quarter of a second for each run."""
    config = copy.deepcopy(config)
    config.seed = seed
    return config


def _command(request: Request) -> str:
    seeds = () if request.seeds is None else (f"seeds={request.seeds}",)
    rows = (f"rows={','.join(request.rows)}",) if request.rows else ()
    return shlex.join(["python", "-m", "experiments.reproduce", request.name, f"budget={request.budget}", *seeds, *rows, *request.overrides])


if __name__ == "__main__":
    try:
        with interruptible():
            where = reproduce(parsed(sys.argv[1:]))
    except Interrupted as stopped:
        print(stopped, file=sys.stderr)
        raise
    print((where / "table.md").read_text())
    print(f"written to {where}: table.md, table.tex, results.json, meta.json, report.html")
