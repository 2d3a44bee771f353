"""The page on reproducing says what the stored runs say, names what has not been run, and judges no ratio itself."""

import json

import pytest

from experiments import benchmarked, reproducing, settings, tables
from experiments.publish import DOCS


@pytest.fixture(scope="module")
def page():
    """Made once: its tables take seconds."""
    return reproducing.page()


def test_the_page_is_the_one_that_the_command_writes(page):
    assert reproducing.PAGE.read_text() == page, "run python -m experiments.reproducing"


def test_every_table_stands_there_with_its_numbers_or_is_named_as_not_run(page):
    done, _, missing = page.partition("## Not run yet")
    for name in settings.tables():
        stored = DOCS / f"{name}.json"
        if stored.exists():
            results = json.loads(stored.read_text())
            assert tables.untitled(results["records"], settings.worded_as_usual(name)).strip() in done
            assert f"`{results['meta']['command']}`" in done
        else:
            assert f"`python -m experiments.reproduce {name}`" in missing
            assert f"## {settings.worded_as_usual(name)['title']}\n" not in done
        if f"{name}-full" not in {path.stem for path in DOCS.glob("*.json")} and stored.exists():
            assert f"`python -m experiments.reproduce {name} budget=full`" in missing


def test_the_speed_section_shows_each_ratio_beside_what_was_wanted():
    results = {
        "e_step": 12.346,
        "peak_memory": 0.5,
        "against": "reference",
        "textbook_over_reference": {"e_step": 1.1},
        "measured": {"command": "c", "hardware": "h", "threads": 2, "sizes": {"channels": 8}, "how": "in turn"},
    }
    text = "\n".join(benchmarked.speed(results))
    rows = {cells[0]: cells[1:] for line in text.splitlines() if line.startswith("|") for cells in [[cell.strip() for cell in line.strip("|").split("|")]]}
    assert rows["e_step"] == ["12.35", "at least 9"]
    assert rows["peak_memory"] == ["0.50", "at most 1"]
    assert rows["textbook loop / reference, e_step"] == ["1.10", "at most 1.2"]
    assert "m_step" not in rows


def rows_of(lines):
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in "\n".join(lines).splitlines() if line.startswith("|")]
    return {row[0]: row[1:] for row in cells}


def test_the_race_says_when_each_reached_what_the_published_code_reached():
    targets = [{"nll": 250.04, "published code": 40.4, "modern": 5.0}, {"nll": 200.0, "published code": 400.0, "modern": None}]
    results = {"targets": targets, "curves": {"published code": [], "modern": []}, "command": "c", "hardware": "h", "threads": 1, "load": 1.0}
    rows = rows_of(benchmarked.race(results))
    assert rows["250.0"] == ["40", "5", "8.1"]
    assert rows["200.0"] == ["400", "not reached", "–"]


def test_the_programs_stand_beside_their_aims():
    row = {"program": "asia", "seed": 0, "ratio": 0.5, "mean_field": 0.25, "met": False, "aim": "TV at most 0.03"}
    row |= {"gflownet": {"tv": 0.0412, "updates": 1200}, "exact_samples": {"tv": 0.0824, "updates": 3000}}
    rows = rows_of(benchmarked.two_minutes({"results": [row], "seconds": 120, "command": "c", "hardware": "h", "threads": 2}))
    assert rows["asia"] == ["0", "0.0412", "0.0824", "0.50", "0.250", "1,200", "3,000", "TV at most 0.03: missed"]


def test_the_lookup_stands_beside_what_was_wanted_of_it():
    seconds = {"ours, rotation": [0.001, 0.01, 0.5], "theirs, rotation": [0.05] * 3, "bare": [0.02] * 3}
    found = {"rotation": 5.0, "straight_through": 4.5, "over_bare": 0.5, "wanted": {"rotation": 4.0, "over_bare": 1.6}, "seconds": seconds}
    how = {"command": "c", "hardware": "h", "threads": 2, "how": "in turn", "sizes": {"vectors": 2048}, "versions": {"vector-quantize-pytorch": "1"}}
    rows = rows_of(benchmarked.lookup({"K=8192, D=32": found, "measured": how}))
    assert rows["K=8192, D=32"] == ["10.0", "50.0", "20.0", "5.00", "at least 4", "4.50", "0.50", "at most 1.6"]


def test_the_sampler_stands_beside_the_published_one_and_what_was_wanted():
    seconds = {"cached": [0.2, 0.25, 0.9], "reference": [1.5, 1.25, 1.0]}
    results = {
        "seconds": {"batch_4": seconds, "batch_64": {"cached": [1.0]}},
        "wanted": {"batch_4": 5.0, "batch_64": 4.0},
        "reference_over_cached_batch_4": 5.0,
    }
    results |= {"floor": {"batch_4": {"seconds": 0.123}, "batch_64": {"seconds": 0.5}}, "logits_differ_by": {"batch_4": 3e-7}}
    results["setting"] = {"steps": 256, "layers": 6, "width": 256, "codes": 1024, "cores": 2, "threads": 2, "torch": "2", "ratios": "of medians"}
    rows = rows_of(benchmarked.sampling(results))
    assert rows["4"] == ["0.25", "1.25", "5.00", "at least 5", "–", "0.12", "3e-07"]
    assert rows["64"] == ["1.00", "–", "–", "at least 4", "–", "0.50", "–"]
    assert not [line for line in benchmarked.sampling(results) if "Missed" in line]
    slow = results | {"reference_over_cached_batch_4": 2.0}
    assert [line for line in benchmarked.sampling(slow) if "**Missed** at 4 samples at a time: 5 times as fast were 0.25 s, 2.0 times the floor" in line]


def test_memory_stands_beside_its_limit():
    results = {"tiled": {"peak_gib": 2.3, "seconds": 61.4}, "window": {"peak_gib": 3.0, "seconds": 20.0}}
    results["setting"] = {"channels": 128, "layers": 12, "width": 512, "threads": 2, "command": "c", "hardware": "h"}
    rows = rows_of(benchmarked.memory(results))
    assert rows["1024x1024 encoded and decoded in tiles"] == ["2.30", "less than 4", "61"]


def test_the_engine_s_cost_is_told_in_per_cent():
    how = {"command": "c", "how": "in turn", "batch": 128, "threads": 2, "torch": "2", "cpu": "AVX512", "load": 1.0}
    rows = rows_of(benchmarked.engine({"loop_processor": 0.0125, "loop_clock": 0.02, "saves": 0.0005, "measured": how}))
    assert rows["the processor's time"] == ["1.25 %"]
    assert rows["saves, by the clock"] == ["0.05 %"]


def test_every_stored_benchmark_has_its_section():
    stored = {path.stem for path in benchmarked.RESULTS.glob("*.json")}
    assert stored <= set(benchmarked.SECTIONS)
