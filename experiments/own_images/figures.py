"""What a report shows of first stages on pictures: held-out squares, through the codes and back, and as small as the grid of codes and back."""

from experiments import figures
from experiments.cells import Spec, label
from experiments.report import Picture


def pictures(runs: figures.Runs, spec: Spec) -> list[Picture]:
    """What the report shows."""
    (row, run), *_ = figures.first(runs).items()
    strips = [("Held-out squares", run["images"]), (label(spec, row), run["reconstructions"]), ("Bicubic", run["bicubic"])]
    caption = "Held-out squares, their reconstructions, and bicubic interpolation of as many pixels as there are codes; of the first seed."
    return [Picture("Reconstructions", caption, figures.strips(strips))]
