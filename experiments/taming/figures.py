"""What the reports of these tables show besides summary and curves."""

from experiments import figures
from experiments.cells import Spec
from experiments.figures import Runs
from experiments.report import Picture


def samples(runs: Runs, spec: Spec) -> list[Picture]:
    """Samples of the rows' priors."""
    caption = "Mean pictures of codes drawn from each row's prior, not cut off; of a condition, those of the first test pictures (first seed)."
    return [Picture("Samples", caption, figures.samples(runs, spec))]


def reconstructions(runs: Runs, spec: Spec) -> list[Picture]:
    """Reconstructions of test pictures."""
    return [
        Picture(
            "Reconstructions", "Test pictures, and the mean picture at the posterior's most probable codes (first seed).", figures.reconstructions(runs, spec)
        )
    ]
