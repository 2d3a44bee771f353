"""The page on reproducing says what the stored runs say, names what has not been run, and judges no ratio itself."""

import json

from experiments import reproducing, settings, tables
from experiments.publish import DOCS


def test_the_page_is_the_one_that_the_command_writes():
    assert reproducing.PAGE.read_text() == reproducing.page(), "run python -m experiments.reproducing"


def test_every_table_stands_there_with_its_numbers_or_is_named_as_not_run():
    page = reproducing.page()
    done, _, missing = page.partition("## Not run yet")
    for name in settings.tables():
        stored = DOCS / f"{name}.json"
        if stored.exists():
            results = json.loads(stored.read_text())
            assert tables.untitled(results["records"], settings.table(name)).strip() in done
            assert f"`{results['meta']['command']}`" in done
        else:
            assert f"`python -m experiments.reproduce {name}`" in missing
            assert settings.table(name)["title"] not in done


def test_the_speed_section_shows_each_ratio_beside_what_was_wanted():
    results = {
        "e_step": 12.346,
        "peak_memory": 0.5,
        "against": "reference",
        "textbook_over_reference": {"e_step": 1.1},
        "measured": {"command": "c", "hardware": "h", "threads": 2, "sizes": {"channels": 8}, "how": "in turn"},
    }
    text = "\n".join(reproducing.speed(results))
    rows = {cells[0]: cells[1:] for line in text.splitlines() if line.startswith("|") for cells in [[cell.strip() for cell in line.strip("|").split("|")]]}
    assert rows["e_step"] == ["12.35", "at least 9"]
    assert rows["peak_memory"] == ["0.50", "at most 1"]
    assert rows["textbook loop / reference, e_step"] == ["1.10", "at most 1.2"]
    assert "m_step" not in rows
