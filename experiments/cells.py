"""A table in words, before it is set as Markdown, LaTeX or HTML: means, intervals and differences over seeds, best rows, footnotes, caption.

A cell is the mean over seeds and half of its 95 % t-interval. A row is marked as best only where a paired t-test with Holm's correction does not
separate it from the best mean; rows are compared with the reference row seed by seed, over the seeds that both have.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from latentcomp.statistics import Interval, interval, paired_interval, separated

Records = Sequence[Mapping[str, Any]]
Spec = Mapping[str, Any]


class Heading(NamedTuple):
    """What stands above a column."""

    label: str
    unit: str = ""
    arrow: str = ""

    def __str__(self) -> str:
        return " ".join(filter(None, (self.label, self.unit and f"({self.unit})", self.arrow)))


class Cell(NamedTuple):
    """A value and its spread as they are printed, whether it is among the best, and the number of its footnote (0: none)."""

    value: str = "–"
    spread: str = ""
    best: bool = False
    note: int = 0


class Table(NamedTuple):
    """A table in words: one label and one list of cells for each row, what the numbered footnotes say, and the sentences of the caption."""

    headings: list[Heading]
    labels: list[str]
    cells: list[list[Cell]]
    footnotes: list[str]
    title: str
    caption: list[str]


class Values:
    """The records by row, metric and seed.

    Args:
        records: one for each row, seed and metric.
    """

    def __init__(self, records: Records) -> None:
        self._values: dict[tuple[str, str], dict[int, float | None]] = {}
        for record in records:
            value = None if record["value"] is None else float(record["value"])
            self._values.setdefault((record["row"], record["metric"]), {})[record["seed"]] = value

    def finite(self, row: str, metric: str) -> dict[int, float]:
        """One value for each seed; none at all if one of them is null, for then there is no mean."""
        values = self._values.get((row, metric), {})
        finite = {seed: value for seed, value in sorted(values.items()) if value is not None}
        return finite if len(finite) == len(values) else {}

    def mean(self, row: str, metric: str) -> Interval | None:
        """The mean over seeds."""
        values = self.finite(row, metric)
        return interval(list(values.values())) if values else None

    def difference(self, row: str, reference: str, metric: str) -> Interval | None:
        """The mean of the row's values minus the reference's, seed by seed."""
        a, b = self.finite(row, metric), self.finite(reference, metric)
        seeds = sorted(a.keys() & b.keys())
        return paired_interval([a[seed] for seed in seeds], [b[seed] for seed in seeds]) if seeds and row != reference else None

    def best_run(self, row: str, metric: str, lower_is_better: bool) -> float | None:
        """The best value of any seed."""
        values = self.finite(row, metric).values()
        return (min if lower_is_better else max)(values) if values else None

    def best(self, rows: Iterable[str], metric: str, lower_is_better: bool | None) -> set[str]:
        """The rows that may be called best, over the seeds that all have; none where no direction can tell. Rows with a single seed take no part."""
        values = {row: self.finite(row, metric) for row in rows}
        values = {row: by_seed for row, by_seed in values.items() if len(by_seed) > 1}
        seeds = sorted(set.intersection(*map(set, values.values()))) if values else []
        if lower_is_better is None or len(seeds) < 2:
            return set()
        return separated({row: [by_seed[seed] for seed in seeds] for row, by_seed in values.items()}, lower_is_better)


def table(records: Records, spec: Spec, meta: Mapping[str, Any] | None = None) -> Table:
    """The table of a specification; ``meta`` adds budget and version to its caption.

    Below its rows stand those that it cites, with the published value alone.
    """
    values, rows, reasons, cited = Values(records), spec["rows"], _reasons(records, spec), spec.get("cited", [])
    columns: list[tuple[Heading, list[Cell]]] = []
    for metric in spec["columns"]:
        heading = spec["headings"][metric]
        columns.append((_heading(heading), _column(records, spec, metric, values, reasons) + [Cell()] * len(cited)))
        expected = {r["row"]: r["expected"] for r in records if r["metric"] == metric and r.get("expected") is not None}
        published = [*(expected.get(row) for row in rows), *(row.get(metric) for row in cited)]
        if any(value is not None for value in published):
            given = [Cell() if value is None else Cell(_number(value, heading["digits"])) for value in published]
            columns.append((Heading(f"{heading['label']}, expected", heading["unit"]), given))
    if against(spec) is not None:
        heading, differences = _differences(values, spec)
        columns.append((heading, differences + [Cell()] * len(cited)))
    cells = [list(row) for row in zip(*(column for _, column in columns), strict=True)]
    labels = [*(label(spec, row) for row in rows), *(row["label"] for row in cited)]
    return Table([heading for heading, _ in columns], labels, cells, reasons, spec["title"], _caption(records, spec, meta or {}))


def label(spec: Spec, row: str) -> str:
    """The human name of a row."""
    return spec.get("labels", {}).get(row, row)


def groups(spec: Spec) -> dict[str, list[str]]:
    """The rows that are compared with each other, by the row that they are compared with: all rows, or where the table has them, those of each group."""
    given = spec.get("groups") or {spec.get("reference", ""): spec["rows"]}
    return {reference: [row for row in members if row in spec["rows"]] for reference, members in given.items()}


def reference(spec: Spec, row: str) -> str:
    """What a row is compared with."""
    return next((reference for reference, members in groups(spec).items() if row in members and reference in members), "")


def partner(spec: Spec, row: str) -> str:
    """The row that the last column compares a row with: its reference, or where a table names ``partners`` its own; empty where it has none."""
    return str(spec["partners"].get(row, "")) if "partners" in spec else reference(spec, row)


def against(spec: Spec) -> str | None:
    """What rows are compared with, in words; None where there is nothing to compare."""
    found = [name for name, members in groups(spec).items() if name in members and (len(members) > 1 or "groups" not in spec)]
    return str(spec.get("against", label(spec, found[0]))) if found else None


def best(values: Values, spec: Spec, metric: str) -> set[str]:
    """The rows that may be called best, each in its group."""
    lower = spec["headings"][metric]["lower_is_better"]
    return set().union(*(values.best(members, metric, lower) for members in groups(spec).values() if len(members) > 1 or "groups" not in spec))


def _reason(record: Mapping[str, Any]) -> str:
    return record.get("reason") or "infinite"


def _reasons(records: Records, spec: Spec) -> list[str]:
    """Why values are missing or not to be trusted: each reason once, in the order of the columns."""
    noted = [r for metric in spec["columns"] for r in records if r["metric"] == metric and (r["value"] is None or r.get("reason"))]
    return list(dict.fromkeys(map(_reason, noted)))


def _heading(heading: Mapping[str, Any]) -> Heading:
    return Heading(heading["label"], heading["unit"], {True: "↓", False: "↑", None: ""}[heading["lower_is_better"]])


def _column(records: Records, spec: Spec, metric: str, values: Values, reasons: list[str]) -> list[Cell]:
    heading, rows = spec["headings"][metric], spec["rows"]
    if "best_of" in heading:
        return _best_runs(values, rows, heading)
    top, cells = best(values, spec, metric), {}
    for row in rows:
        cells[row] = _cell(values.mean(row, metric), heading["digits"], row in top)
    for record in records:
        if record["metric"] == metric and (record["value"] is None or record.get("reason")):
            number = reasons.index(_reason(record)) + 1
            infinite = Cell("∞" if "infinite" in _reason(record) else "–")
            cells[record["row"]] = (cells[record["row"]] if record["value"] is not None else infinite)._replace(note=number)
    return [cells[row] for row in rows]


def _best_runs(values: Values, rows: Sequence[str], heading: Mapping[str, Any]) -> list[Cell]:
    """The best run of each row by the metric ``best_of``; with ``minus``, less the best run of that row."""
    tops = {row: values.best_run(row, heading["best_of"], heading["lower_is_better"]) for row in rows}
    base, sign = (tops[heading["minus"]], "+") if "minus" in heading else (0.0, "")
    return [Cell() if top is None or base is None else Cell(_number(top - base, heading["digits"], sign)) for top in tops.values()]


def _differences(values: Values, spec: Spec) -> tuple[Heading, list[Cell]]:
    heading = spec["headings"][spec["headline"]]
    cells = [_cell(values.difference(row, partner(spec, row), spec["headline"]), heading["digits"], sign="+") for row in spec["rows"]]
    return Heading(f"Difference to {against(spec)}", heading["unit"]), cells


def _cell(mean: Interval | None, digits: int, best: bool = False, sign: str = "") -> Cell:
    if mean is None:
        return Cell()
    known = math.isfinite(mean.half_width) and mean.half_width > 0
    return Cell(_number(mean.mean, digits, sign), _number(mean.half_width, digits) if known else "", best)


def _number(value: float, digits: int, sign: str = "") -> str:
    return f"{value:{sign}z,.{digits}f}".replace("-", "−")


def _bold(spec: Spec, some_are_single: bool) -> list[str]:
    """What bold means, where any column can have it."""
    if all(spec["headings"][metric]["lower_is_better"] is None for metric in spec["columns"]):
        return []
    if "groups" in spec and against(spec) is None:
        return []
    among = " among the rows of its group" if "groups" in spec else " of the rows with several seeds" if some_are_single else ""
    return [f"Bold: the best mean{among}, and those that a paired t-test with Holm's correction over rows does not separate from it (5 %)."]


def _caption(records: Records, spec: Spec, meta: Mapping[str, Any]) -> list[str]:
    metrics, seeds = set(spec["columns"]), len({r["seed"] for r in records})
    sources = dict.fromkeys(r["source"] for r in records if r.get("expected") is not None and r["metric"] in metrics and r.get("source"))
    sentences = [str(spec.get("note", "")).strip()]
    if seeds > 1:
        fewer = sorted({few for row, few in spec.get("seeds", {}).items() if few < seeds})
        some = f" ({' or '.join(map(str, fewer))} in rows without ±)" if fewer else ""
        sentences.append(f"Means over {seeds} seeds{some}, ± half of the interval ({spec['interval']}); no ± where all seeds agree.")
        sentences += _bold(spec, bool(fewer))
    else:
        sentences.append("A single seed: there are no intervals, and nothing can be called best.")
    if (other := against(spec)) is not None:
        difference = f"{spec['headings'][spec['headline']]['label']}, minus {other}'s of the same seed"
        sentences.append(f"Last column: {difference}" + (", with the paired 95 % interval." if seeds > 1 else "."))
    if sources:
        sentences.append(f"Expected: {'; '.join(sources)}.")
    if meta:
        sentences.append(f"Budget {meta['budget']}, latentcomp {meta['version']}.")
    return list(filter(None, sentences))
