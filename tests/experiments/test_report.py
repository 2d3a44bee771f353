import json
import re
from pathlib import Path

import pytest
import torch

from experiments import report, tables
from experiments.tables import BrokenFolder
from tests.experiments import synthetic

ROWS = ("exact_em", "gflownet_em", "vq_ema")
COMMAND = synthetic.meta()["command"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = synthetic.write(tmp_path_factory.mktemp("reproduce") / "digits", ROWS, seeds=2)
    report.write(path)
    return path


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    return synthetic.write(tmp_path / "digits", ("exact_em",), seeds=1)


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    return (folder / "report.html").read_text()


def test_the_report_is_one_file_with_everything_inside(page: str) -> None:
    assert page.count("<img") == page.count('src="data:image/') == 6
    without = re.sub(r"data:image/[^\"]+", "", page)
    assert not re.search(r"(src|href)=\"(?!\")|https?:|@import|url\(", without)
    assert not re.search(r"{[{%]", without)


def test_the_report_says_what_made_it(page: str) -> None:
    meta = synthetic.meta()
    for words in (meta["table"]["title"], COMMAND, "latentcomp 0.1.0", meta["hardware"], "7.4 minutes"):
        assert words in page


def test_the_table_is_in_the_report(folder: Path, page: str) -> None:
    results = tables.read(folder)
    words = report.table(results.records, results.meta["table"], results.meta)
    for line in words.cells:
        for cell in line:
            assert cell.value in page
            assert not cell.best or f"<b>{cell.value}</b>" in page
    assert f'<abbr title="{synthetic.REASON}">∞<sup>1</sup></abbr>' in page


def test_the_report_counts_its_records(page: str) -> None:
    assert "48 records" in page
    assert "3 rows, 2 seeds and 8 metrics" in page
    assert "2 of the values are null" in page


def test_tables_are_written_beside_the_report(folder: Path) -> None:
    results = tables.read(folder)
    assert (folder / "table.md").read_text() == tables.markdown(results.records, results.meta["table"], results.meta)
    assert (folder / "table.tex").exists()


@pytest.fixture
def without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "_pictures", lambda *_: [])


@pytest.mark.usefixtures("without_pictures")
def test_labels_cannot_break_the_page(fresh: Path) -> None:
    meta = synthetic.meta()
    meta["table"] |= {"rows": ["exact_em"], "labels": {"exact_em": "<script>&"}}
    (fresh / "meta.json").write_text(json.dumps(meta))
    text = report.write(fresh).read_text()
    assert "<script>" not in text
    assert "&lt;script&gt;&amp;" in text


def test_configurations_are_what_is_shared_and_what_is_a_row_s_own() -> None:
    shared, own = report.configs(synthetic.records(ROWS, seeds=2), ROWS)
    assert shared["budget.updates"] == 600
    assert shared["learner.m_step.samples"] == 4
    assert own["vq_ema"] == {"learner._target_": "latentcomp.learners.vq_ema"}


def test_a_single_run_has_a_report(fresh: Path) -> None:
    text = report.write(fresh).read_text()
    assert "1 seed<" in text
    assert "single seed" in text


@pytest.mark.parametrize("name", ["meta.json", "results.json"])
@pytest.mark.parametrize("content", [None, "{", "7", "{}", "[]", "[{}]"])
def test_a_broken_folder_says_what_is_missing_and_what_makes_it(fresh: Path, name: str, content: str | None) -> None:
    (fresh / name).unlink()
    if content is not None:
        (fresh / name).write_text(content)
    with pytest.raises(BrokenFolder, match=re.escape(str(fresh / name))) as raised:
        report.write(fresh)
    assert "python -m experiments.reproduce digits" in str(raised.value)
    assert not (fresh / "table.md").exists()


def test_a_table_without_its_words_is_named(fresh: Path) -> None:
    meta = synthetic.meta()
    del meta["table"]["headings"]
    (fresh / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(BrokenFolder, match=r"lacks table\.headings"):
        report.write(fresh)


@pytest.mark.parametrize(("name", "command"), [("digits", "reproduce digits$"), ("digits-smoke", "reproduce digits budget=smoke$")])
def test_a_missing_folder_names_its_command(tmp_path: Path, name: str, command: str) -> None:
    with pytest.raises(BrokenFolder, match=command):
        report.write(tmp_path / name)


@pytest.mark.parametrize("damage", ["missing", "damaged", "lacks"])
def test_a_broken_run_says_how_to_make_it_anew(fresh: Path, damage: str) -> None:
    path = fresh / "runs" / "exact_em-0.pt"
    if damage == "missing":
        path.unlink()
    elif damage == "damaged":
        path.write_bytes(path.read_bytes()[:1000])
    else:
        torch.save({"curve": []}, path)
    with pytest.raises(BrokenFolder, match=damage) as raised:
        report.write(fresh)
    assert str(path) in str(raised.value)
    assert f"Delete {path.with_suffix('.json')}" in str(raised.value)
    assert COMMAND in str(raised.value)


@pytest.mark.usefixtures("without_pictures")
def test_the_command_line(fresh: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report.main([str(fresh)])
    assert capsys.readouterr().out == f"written: {fresh / 'report.html'}\n"
    with pytest.raises(SystemExit, match=r"python -m experiments\.report FOLDER"):
        report.main([])
