"""Measures as a table's records."""

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig

from experiments.execute import plain
from latentcomp.evaluate.protocol import Measure


def records(config: DictConfig, row: str, measures: Mapping[str, Measure], seconds: float) -> list[dict[str, Any]]:
    """One record for each measure, with the published value where there is one."""
    common = {"seconds": seconds, "source": config.source, "config": plain(config)}
    return [
        {"row": row, "seed": config.seed, "metric": name, "expected": config.expected.get(name)} | measure._asdict() | common
        for name, measure in measures.items()
    ]
