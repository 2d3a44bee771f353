"""A results folder made up of plausible numbers: nine rows, six seeds, four sites of eight codes, 8x8 images."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

ROWS = ("exact_em", "hard_em", "gflownet_em", "gflownet_em_no_sleep", "wake_sleep", "reinforce", "gumbel_softmax", "vq_gradient", "vq_ema")
LABELS = ("Exact EM", "Hard EM", "GFlowNet-EM", "GFlowNet-EM, no sleep", "Wake-sleep", "REINFORCE", "Gumbel-softmax", "VQ, gradient", "VQ, EMA")
NLL = dict(zip(ROWS, (24.31, 25.4, 24.45, 24.83, 24.92, 24.52, 25.1, 26.2, 25.02), strict=True))
KL = dict(zip(ROWS, (0.0, 1.2, 0.11, 0.38, 0.52, 0.24, 0.66, 1.9, 1.31), strict=True))
POINTS = ("hard_em", "vq_gradient", "vq_ema")
REASON = "infinite: the posterior gives probability zero to codes that the exact posterior does not"
SEEDS, N, K = 6, 4, 8


def heading(label: str, unit: str, lower: bool | None, digits: int = 2) -> dict[str, Any]:
    return {"label": label, "unit": unit, "lower_is_better": lower, "digits": digits}


def spec() -> dict[str, Any]:
    headings = {
        "exact_nll": heading("NLL, fitted prior", "nats", True),
        "own_bound": heading("Own bound", "nats", True),
        "kl_q_p": heading("KL(q‖p)", "nats", True),
        "kl_p_q": heading("KL(p‖q)", "nats", True),
        "perplexity": heading("Perplexity", "codes", None),
        "decoder_evaluations": heading("Decoded", "images", None, 0),
        "seconds": heading("Training", "s", None, 1),
    }
    return {
        "title": "Nine posterior learners on the 8x8 digits",
        "rows": list(ROWS),
        "labels": dict(zip(ROWS, LABELS, strict=True)),
        "columns": list(headings),
        "headings": headings,
        "headline": "exact_nll",
        "reference": "gflownet_em",
        "note": "Exact negative log-likelihood of the 297 test digits, at the state of best validation NLL.",
        "interval": "95 % t over seeds; a seed turns the train/validation fold, the initial weights and all noise",
    }


def meta() -> dict[str, Any]:
    return {
        "version": "0.1.0",
        "name": "digits",
        "budget": "cpu",
        "command": "python -m experiments.reproduce digits budget=cpu",
        "seeds": list(range(SEEDS)),
        "hardware": "2 CPU cores, x86_64; torch 2.11.0, Python 3.11.2",
        "minutes": 7.4,
        "runs_made": 54,
        "table": spec(),
    }


def config(row: str, seed: int) -> dict[str, Any]:
    learner = {"_target_": f"latentcomp.learners.{row}", "m_step": {"_target_": "latentcomp.phases.m_step.Sampled", "samples": 4}}
    return {"seed": seed, "budget": {"updates": 600, "size": 100}, "data": {"_target_": "latentcomp.data.digits", "fold": seed}, "learner": learner}


def values(row: str, seed: int) -> dict[str, float | None]:
    noise = torch.Generator().manual_seed(100 * ROWS.index(row) + seed)
    e = torch.randn(6, generator=noise).tolist()
    fold = 0.3 * torch.randn(1, generator=torch.Generator().manual_seed(seed)).item()
    nll, kl = NLL[row] + fold + 0.06 * e[0], KL[row] * (1 + 0.1 * e[1])
    return {
        "exact_nll": nll,
        "own_bound": nll + kl,
        "kl_q_p": kl,
        "kl_p_q": None if row in POINTS else 2 * kl,
        "perplexity": 7.6 - KL[row] + 0.2 * e[2],
        "decoder_evaluations": 600 * 100 * (4096 if row == "exact_em" else 12),
        "seconds": 8 + abs(e[3]) + 20 * (row == "exact_em"),
        "val_nll": nll + 0.1,
    }


def records(rows: tuple[str, ...] = ROWS, seeds: int = SEEDS) -> list[dict[str, Any]]:
    return [
        {
            "row": row,
            "seed": seed,
            "metric": metric,
            "value": value,
            "unit": "nats",
            "stderr": 0.2,
            "expected": None,
            "source": None,
            "seconds": 8.0,
            "config": config(row, seed),
            "reason": REASON if value is None else None,
        }
        for row in rows
        for seed in range(seeds)
        for metric, value in values(row, seed).items()
    ]


@cache
def some_digits() -> Tensor:
    return torch.tensor(load_digits().images[:24] / 16, dtype=torch.float32)[:, None]


def pictures(row: str, seed: int) -> dict[str, Any]:
    noise = torch.Generator().manual_seed(100 * ROWS.index(row) + seed)
    digits = some_digits()
    blurred = interpolate(avg_pool2d(digits, 2), scale_factor=2)
    steps = range(50, 601, 50)
    final = values(row, seed)["val_nll"]
    curve = [{"step": s, "val_nll": final + 14 * 2 ** (-s / 60) + 0.05 * torch.randn(1, generator=noise).item(), "loss": 1.0} for s in steps]
    share = torch.softmax(torch.randn(N, K, generator=noise) * (0.4 + KL[row]), -1)
    return {
        "curve": curve,
        "best_step": min(curve, key=lambda look: look["val_nll"])["step"],
        "images": digits[:8],
        "reconstructions": (blurred[:8] + 0.05 * torch.randn(8, 1, 8, 8, generator=noise)).clamp(0, 1),
        "samples": (blurred[8:] + 0.1 * torch.randn(16, 1, 8, 8, generator=noise)).clamp(0, 1),
        "usage": (share * 2376).long(),
        "posterior": posterior(row, digits[:4], noise),
    }


def posterior(row: str, images: Tensor, noise: torch.Generator) -> dict[str, Tensor]:
    p = torch.softmax(2 * torch.randn(4, 30, generator=noise), -1).sort(descending=True).values
    q = torch.softmax(p.log() + KL[row] * torch.randn(4, 30, generator=noise), -1)
    if row in POINTS:
        q = torch.eye(30)[[0, 1, 12, 0]]
    return {"codes": torch.randint(K, (4, 10, N), generator=noise), "p": p[:, :10], "q": q[:, :10], "images": images}


def write(folder: Path, rows: tuple[str, ...] = ROWS, seeds: int = SEEDS) -> Path:
    """Writes the whole folder."""
    (folder / "runs").mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(records(rows, seeds)))
    (folder / "meta.json").write_text(json.dumps(meta() | {"seeds": list(range(seeds)), "table": spec() | {"rows": list(rows)}}))
    for row in rows:
        for seed in range(seeds):
            torch.save(pictures(row, seed), folder / "runs" / f"{row}-{seed}.pt")
    return folder
