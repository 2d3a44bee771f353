"""The sides by name."""

from benchmarks.gflownet_em.ours import Ours
from benchmarks.gflownet_em.reference import Published
from benchmarks.gflownet_em.sides import Side
from benchmarks.gflownet_em.textbook import Textbook

SIDES: dict[str, type[Side]] = {"ours": Ours, "textbook": Textbook, "reference": Published}
