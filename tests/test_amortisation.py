"""The frozen-model proof at full size: minutes, so it is slow."""

import pytest

from experiments import settings
from experiments.amortisation import execute


@pytest.mark.slow
def test_the_log_variance_e_step_reaches_the_amortisation_floor_on_the_digits():
    """On the test digits, KL(q || p) of at most 1.2 times what the same network reaches on exact posterior samples."""

    def kl(row):
        records, _ = execute(settings.row("amortisation", row, "cpu", 0), row)
        return next(record["value"] for record in records if record["metric"] == "kl_q_p")

    floor, reached = kl("exact_samples"), kl("log_variance")
    print(f"floor {floor:.3f}, reached {reached:.3f} nats")
    assert reached <= 1.2 * floor
