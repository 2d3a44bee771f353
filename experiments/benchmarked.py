"""The part of docs/reproducing.md that speaks of speed: what the stored results of the benchmarks say, each beside what was wanted of it.

A benchmark writes its numbers with ``--json``; those that are kept lie in benchmarks/results. No figure in these sections is typed by hand.
"""

import json
import statistics
from collections.abc import Callable
from typing import Any

from tabulate import tabulate

from experiments.publish import DOCS

RESULTS = DOCS.parent.parent / "benchmarks" / "results"
WANTED = {"e_step": 9.0, "sleep_step": 9.0, "m_step": 2.5, "log_px_untrained": 8.0, "log_px_trained": 30.0, "peak_memory": 1.0}


def sections() -> list[str]:
    """All of them whose results are stored."""
    parts: list[str] = []
    for name, section in SECTIONS.items():
        path = RESULTS / f"{name}.json"
        if path.exists():
            parts += section(json.loads(path.read_text()))
    return parts


def speed(results: dict[str, Any]) -> list[str]:
    """The ratios of benchmarks.gflownet_em, each beside what was wanted."""
    how = results["measured"]
    rows = [[name, results[name], f"at {'most' if name == 'peak_memory' else 'least'} {wanted:g}"] for name, wanted in WANTED.items() if name in results]
    rows += [[f"textbook loop / reference, {name}", value, "at most 1.2"] for name, value in results.get("textbook_over_reference", {}).items()]
    sizes = ", ".join(f"{key} {value}" for key, value in how["sizes"].items())
    trained = results.get("trained", {})
    run = [f"The trained weights: `{trained['command']}`; updates {trained['updates']}, {_numbers(trained)}."] if trained else []
    return [
        "## Speed of GFlowNet-EM",
        f"How many times as fast as the {results['against']}; for memory, ours over theirs.",
        tabulate(rows, ["", "ratio", "wanted"], "pipe", floatfmt=("", ".2f", "")),
        f"Made by `{how['command']}` on {how['hardware']}, {how['threads']} threads; {sizes}. How: {how['how']}.",
        *run,
    ]


def _numbers(trained: dict[str, Any]) -> str:
    names = {
        "test_nll": "test NLL (nats)",
        "test_images": "test images",
        "mean_ess": "mean effective sample size",
        "mean_distinct_codes": "mean distinct codes",
    }
    return ", ".join(f"{label} {trained[name]:.1f}" if isinstance(trained[name], float) else f"{label} {trained[name]}" for name, label in names.items())


def race(results: dict[str, Any]) -> list[str]:
    """Time to quality: when each contestant first reached a likelihood that the published code reached."""
    names = list(results["curves"])
    rows = [[row["nll"], *("not reached" if row[name] is None else f"{row[name]:.0f}" for name in names), _times(row)] for row in results["targets"]]
    return [
        "## Time to quality",
        "Seconds of training until the importance-weighted test NLL under the uniform prior was first seen at or below a value that the published code "
        "reached; everyone is looked at every so often, so a time is an upper bound. Each is judged by its own posterior, as the published code does it, with "
        "the same few samples an image: a race to a number, not the yardstick of the tables. One seed, and lengths at which nobody has converged.",
        tabulate(rows, ["NLL (nats)", *(f"{name} (s)" for name in names), "modern: times as fast (10 wanted)"], "pipe", floatfmt=".1f"),
        "![Test NLL against seconds of training](results/time_to_quality.svg)",
        f"Made by `{results['command']}` on {results['hardware']}, {results['threads']} threads, all in turns within one process"
        + (f"; at its end {results['load']:.1f} tasks ran on the machine on average." if "load" in results else "."),
    ]


def _times(row: dict[str, Any]) -> str:
    return "–" if row["modern"] is None else f"{row['published code'] / row['modern']:.1f}"


def two_minutes(results: dict[str, Any]) -> list[str]:
    """How near to its exact posterior a guide of each Pyro program comes."""
    head = ["program", "seed", "TV, GFlowNet", "TV, exact samples", "ratio", "TV, mean field", "updates, GFlowNet", "updates, exact samples", "aim"]
    rows = [_of_program(row) for row in results["results"]]
    return [
        "## Pyro programs: total variation after a given time",
        f"GFlowNetELBO and the same network on exact posterior samples, each trained for {results['seconds']:g} seconds of its own clock, in turns.",
        tabulate(rows, head, "pipe", disable_numparse=True),
        f"Made by `{results['command']}` on {results['hardware']}, {results['threads']} threads.",
    ]


def _of_program(row: dict[str, Any]) -> list[str]:
    ours, exact = row["gflownet"], row["exact_samples"]
    distances = [f"{ours['tv']:.4f}", f"{exact['tv']:.4f}", f"{row['ratio']:.2f}", f"{row['mean_field']:.3f}"]
    return [row["program"], str(row["seed"]), *distances, f"{ours['updates']:,}", f"{exact['updates']:,}", f"{row['aim']}: {'met' if row['met'] else 'missed'}"]


def lookup(results: dict[str, Any]) -> list[str]:
    """A nearest-code lookup with its gradient against vector-quantize-pytorch's and the bare product."""
    how = results["measured"]
    head = ["codebook", "ours (ms)", "theirs (ms)", "bare (ms)", "times as fast", "wanted", "straight-through", "ours / bare", "wanted"]
    rows = [_of_size(name, found) for name, found in results.items() if name != "measured"]
    return [
        "## Speed of nearest-code lookup",
        f"{how['sizes']['vectors']:,} vectors, forward and backward, with the rotation trick on both sides; beside it the ratio with the straight-through "
        f"gradient on both sides. Theirs: vector-quantize-pytorch {how['versions']['vector-quantize-pytorch']}; bare: the product of vectors and codes and an "
        "argmin.",
        tabulate(rows, head, "pipe", disable_numparse=True),
        f"Made by `{how['command']}` on {how['hardware']}, {how['threads']} threads. How: {how['how']}.",
    ]


def _of_size(name: str, found: dict[str, Any]) -> list[str]:
    medians = [f"{1e3 * statistics.median(found['seconds'][side]):.1f}" for side in ("ours, rotation", "theirs, rotation", "bare")]
    wanted = found["wanted"]
    ratios = [f"{found['rotation']:.2f}", f"at least {wanted['rotation']:g}", f"{found['straight_through']:.2f}", f"{found['over_bare']:.2f}"]
    return [name, *medians, *ratios, f"at most {wanted['over_bare']:g}"]


def sampling(results: dict[str, Any]) -> list[str]:
    """256 codes of a transformer, cached, against the published sampler and passes without a cache."""
    how, wanted = results["setting"], results["wanted"]
    head = ["samples at a time", "ours (s)", "published (s)", "times as fast", "wanted", "uncached, times as long", "floor (s)", "logits differ by"]
    rows = [_of_batch(name, results, wanted[name]) for name in results["seconds"]]
    return [
        "## Speed of sampling",
        f"{how['steps']} codes of a transformer of {how['layers']} layers and width {how['width']}, K = {how['codes']:,}, with a cache of keys and values; "
        "published: the cached sampler of CompVis/taming-transformers on the same weights. The floor is what reading and multiplying alone would take.",
        tabulate(rows, head, "pipe", disable_numparse=True),
        *(_missed(name, results, wanted[name]) for name in results["seconds"] if results.get(f"reference_over_cached_{name}", wanted[name]) < wanted[name]),
        f"Made by `{how.get('command', 'python -m benchmarks.sampling --reference PATH --json FILE')}` on {_machine(how)}. Ratios: {how['ratios']}.",
    ]


def _of_batch(name: str, results: dict[str, Any], wanted: float) -> list[str]:
    seconds, known = results["seconds"][name], f"_over_cached_{name}"
    medians = [f"{statistics.median(seconds[side]):.2f}" if side in seconds else "–" for side in ("cached", "reference")]
    ratio, slow = (f"{results[side + known]:.2f}" if side + known in results else "–" for side in ("reference", "uncached"))
    differ = results["logits_differ_by"].get(name)
    least = [f"{results['floor'][name]['seconds']:.2f}", "–" if differ is None else f"{differ:.0e}"]
    return [name.removeprefix("batch_"), *medians, ratio, f"at least {wanted:g}", slow, *least]


def _missed(name: str, results: dict[str, Any], wanted: float) -> str:
    """What a ratio that was not reached asks for, by the side of what the machine could do at best."""
    allowed, floor = statistics.median(results["seconds"][name]["reference"]) / wanted, results["floor"][name]["seconds"]
    return (
        f"**Missed** at {name.removeprefix('batch_')} samples at a time: {wanted:g} times as fast were {allowed:.2f} s, {allowed / floor:.1f} times the floor."
    )


def _machine(how: dict[str, Any]) -> str:
    return f"{how['hardware']}, {how['threads']} threads" if "hardware" in how else f"{how['cores']} cores, {how['threads']} threads, torch {how['torch']}"


def memory(results: dict[str, Any]) -> list[str]:
    """Large images: the most memory that a process had."""
    how = results["setting"]
    words = {"tiled": "1024x1024 encoded and decoded in tiles", "window": "512x512 sampled by a sliding window, decoded in tiles"}
    rows = [[words[task], f"{results[task]['peak_gib']:.2f}", "less than 4", f"{results[task]['seconds']:.0f}"] for task in words]
    return [
        "## Memory of large images",
        f"A VQGAN of the published size (f = 16, {how['channels']} channels), a transformer of {how['layers']} layers and width {how['width']}; each task in "
        "a process of its own, whose largest resident size counts.",
        tabulate(rows, ["", "memory (GiB)", "wanted", "seconds"], "pipe", disable_numparse=True),
        f"Made by `{how['command']}` on {how['hardware']}, {how['threads']} threads.",
    ]


def engine(results: dict[str, Any]) -> list[str]:
    """What the whole engine adds to a bare step."""
    how = results["measured"]
    shares = {"the processor's time": results["loop_processor"], "the clock's": results["loop_clock"], "saves, by the clock": results["saves"]}
    rows = [[name, f"{100 * share:.2f} %"] for name, share in shares.items()]
    return [
        "## Cost of the engine",
        f"What log, checks, signals and schedule add to a bare step of GFlowNet-EM at MNIST's scale (batch {how['batch']}), as shares of it.",
        tabulate(rows, ["", "added"], "pipe", disable_numparse=True),
        f"Made by `{how['command']}` on {how['threads']} threads ({how['cpu']}), torch {how['torch']}; {how['load']:.1f} tasks ran on the machine. "
        f"How: {how['how']}.",
    ]


SECTIONS: dict[str, Callable[[dict[str, Any]], list[str]]] = {"gflownet_em": speed, "time_to_quality": race, "pyro": two_minutes, "codebook": lookup}
SECTIONS |= {"sampling": sampling, "memory": memory, "engine": engine}
