"""What the documentation shows is what was measured."""

import json
import re
from pathlib import Path

import pytest

from experiments import publish, settings, tables
from tests.experiments.synthetic import write as write_folder

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "docs" / "results").glob("*.json")))
def test_each_page_shows_the_numbers_of_its_results_file(name):
    stored = json.loads((ROOT / "docs" / "results" / f"{name}.json").read_text())
    assert publish.stem(stored["meta"]) == name
    words = settings.worded_as_usual(stored["meta"]["name"], stored["meta"]["budget"])
    table = tables.untitled(stored["records"], words).strip()
    page = (ROOT / "docs" / "results" / f"{name}.md").read_text()
    assert table in page
    assert page.startswith(f"# {words['title']}\n")
    assert words.get("reading", "").strip() in page
    assert len({record["seed"] for record in stored["records"]}) == len(stored["meta"]["seeds"])


def test_the_readme_shows_the_numbers_of_the_digits_table():
    stored = json.loads((ROOT / "docs" / "results" / "digits.json").read_text())
    readme = (ROOT / "README.md").read_text()
    assert publish.marked(readme, "digits", tables.markdown(stored["records"], settings.worded_as_usual("digits"))) == readme
    assert stored["meta"]["budget"] == "cpu"


def test_publishing_twice_changes_nothing_and_other_text_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(publish, "DOCS", tmp_path / "docs")
    folder, readme = write_folder(tmp_path / "results", ("exact_em", "gflownet_em", "vq_ema"), seeds=2), tmp_path / "README.md"
    readme.write_text("before\n<!-- table digits -->\nstale words\n<!-- end -->\nafter\n")
    publish.publish(folder, readme)
    first = readme.read_text()
    assert first.startswith("before\n")
    assert first.endswith("\nafter\n")
    assert "stale words" not in first
    assert "GFlowNet-EM" in first
    publish.publish(folder, readme)
    assert readme.read_text() == first
    assert "config" not in json.loads((tmp_path / "docs" / "digits.json").read_text())["records"][0]


def test_a_text_without_marks_is_refused():
    with pytest.raises(SystemExit, match="no block"):
        publish.marked("nothing here", "digits", "table")


def test_a_published_command_names_no_folder_of_this_machine():
    for path in sorted((ROOT / "docs" / "results").glob("*.json")):
        assert not re.search(r"=[^ ]*/", json.loads(path.read_text())["meta"]["command"])
