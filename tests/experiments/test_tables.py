import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from experiments import tables
from experiments.cells import Cell, Values, table
from latentcomp.statistics import interval, paired_interval, separated
from tests.experiments import synthetic

RECORDS, SPEC, META = synthetic.records(), synthetic.spec(), synthetic.meta()


def of(row: str, metric: str) -> list[float]:
    return [record["value"] for record in RECORDS if (record["row"], record["metric"]) == (row, metric)]


def only(*columns: str) -> dict[str, Any]:
    return SPEC | {"columns": list(columns)}


def cells(spec: dict[str, Any], records=RECORDS, heading: str | None = None) -> dict[str, Cell]:
    """The column of that heading, or the first."""
    words = table(records, spec)
    place = [str(heading) for heading in words.headings].index(heading) if heading else 0
    return {row: line[place] for row, line in zip(spec["rows"], words.cells, strict=True)}


def rows(markdown: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in markdown.splitlines() if line.startswith("| ")]


def test_a_cell_is_the_mean_and_half_of_its_interval() -> None:
    mean = interval(of("wake_sleep", "exact_nll"))
    assert cells(only("exact_nll"))["wake_sleep"][:2] == (f"{mean.mean:.2f}", f"{mean.half_width:.2f}")


def test_the_last_column_is_the_paired_difference_to_the_reference() -> None:
    column = cells(only("perplexity"), heading="Difference to GFlowNet-EM (nats)")
    difference = paired_interval(of("exact_em", "exact_nll"), of("gflownet_em", "exact_nll"))
    assert column["exact_em"][:2] == (f"{difference.mean:+.2f}".replace("-", "−"), f"{difference.half_width:.2f}")
    assert column["gflownet_em"] == Cell("–")


def test_only_what_a_corrected_paired_test_does_not_separate_is_best() -> None:
    best = separated({row: of(row, "exact_nll") for row in synthetic.ROWS})
    assert {row for row, cell in cells(only("exact_nll")).items() if cell.best} == best
    assert 1 <= len(best) < len(synthetic.ROWS)
    assert not any(cell.best for cell in cells(only("perplexity")).values())


def test_higher_may_be_better() -> None:
    spec = only("perplexity") | {"headings": SPEC["headings"] | {"perplexity": synthetic.heading("Perplexity", "codes", False)}}
    best = separated({row: of(row, "perplexity") for row in synthetic.ROWS}, lower_is_better=False)
    assert {row for row, cell in cells(spec, heading="Perplexity (codes) ↑").items() if cell.best} == best


def test_an_infinite_value_is_never_best_and_says_why() -> None:
    column = cells(only("kl_p_q"))
    assert table(RECORDS, only("kl_p_q")).footnotes == [synthetic.REASON]
    assert {row for row, cell in column.items() if cell == Cell("∞", note=1)} == set(synthetic.POINTS)
    assert column["exact_em"].best


def test_one_infinite_seed_makes_the_mean_infinite_and_other_reasons_are_no_infinity() -> None:
    records = [dict(record) for record in RECORDS]
    for record in records:
        if (record["metric"], record["seed"], record["row"]) == ("own_bound", 3, "reinforce"):
            record |= {"value": None, "reason": synthetic.REASON}
        if (record["metric"], record["row"]) == ("own_bound", "vq_ema"):
            record |= {"value": None, "reason": "not defined for an energy"}
    column = cells(only("own_bound"), records)
    assert column["reinforce"] == Cell("∞", note=1)
    assert column["vq_ema"] == Cell("–", note=2)


def test_a_single_seed_has_no_interval_and_no_best() -> None:
    records = synthetic.records(seeds=1)
    text = tables.markdown(records, SPEC)
    assert "±" not in text
    assert "**" not in text.split("\n\n")[1]
    assert "single seed" in text


def test_rows_are_compared_over_the_seeds_they_share() -> None:
    records = [record for record in RECORDS if (record["row"], record["seed"]) not in {("exact_em", 0), ("gflownet_em", 5)}]
    difference = Values(records).difference("exact_em", "gflownet_em", "exact_nll")
    assert difference == paired_interval(of("exact_em", "exact_nll")[1:5], of("gflownet_em", "exact_nll")[1:5])
    assert table(records, only("perplexity")).labels == list(synthetic.LABELS)


def test_a_row_without_records_is_empty() -> None:
    assert cells(only("own_bound"), synthetic.records(rows=("gflownet_em", "vq_ema")))["exact_em"] == Cell("–")


def test_expected_values_have_a_column_and_their_source() -> None:
    records = [record | ({"expected": 24.3, "source": "Table 2 of the paper"} if record["row"] == "exact_em" else {}) for record in RECORDS]
    records = [record | {"expected": record["expected"] if record["metric"] == "exact_nll" else None} for record in records]
    column = cells(only("exact_nll"), records, "NLL, fitted prior, expected (nats)")
    assert (column["exact_em"].value, column["vq_ema"].value) == ("24.30", "–")
    assert "Expected: Table 2 of the paper." in tables.markdown(records, only("exact_nll"))
    assert "expected" not in tables.markdown(RECORDS, only("exact_nll"))


def test_numbers_have_thousands_a_true_minus_and_no_negative_zero() -> None:
    assert cells(only("decoder_evaluations"))["exact_em"] == Cell("245,760,000")
    twins = [record | {"value": -0.001 * record["seed"]} for record in synthetic.records(rows=("exact_em",))]
    assert "−0.00" not in tables.markdown(twins, only("exact_nll") | {"rows": ["exact_em"]})


def test_the_markdown_is_one_rectangle_with_a_caption() -> None:
    text = tables.markdown(RECORDS, SPEC, META)
    assert {len(line) for line in rows(text)} == {9}
    assert [line[0] for line in rows(text)][-9:] == list(synthetic.LABELS)
    for words in ("6 seeds", SPEC["interval"], "Holm", "Budget cpu, latentcomp 0.1.0", f"¹ {synthetic.REASON}", "∞¹"):
        assert words in text


NASTY = r"100% of A_B & C#1 {x}~^ \cmd <$5> α ‖ ⌊y⌋"


@pytest.fixture(params=["plain", "nasty"], scope="module")
def latex(request: pytest.FixtureRequest) -> str:
    if request.param == "plain":
        return tables.latex(RECORDS, SPEC, META)
    spec = SPEC | {"title": NASTY, "note": NASTY, "labels": dict.fromkeys(synthetic.ROWS, NASTY)}
    records = [record | {"reason": f"infinite: {NASTY}"} for record in RECORDS]
    return tables.latex(records, spec | {"headings": SPEC["headings"] | {"own_bound": synthetic.heading(NASTY, NASTY, True)}}, META)


def test_latex_is_balanced_and_escaped(latex: str) -> None:
    text = "\n".join(line.removesuffix("%") for line in latex.splitlines() if not line.startswith(("%", r"\providecommand")))
    text = text.replace("\\end{tabular}}", "\\end{tabular}")  # the brace that the command on the line left out has opened
    text = re.sub(r"\\[\\%_&#${}~^]", "", text)  # what is escaped is no matter
    depth = [text[: place + 1].count("{") - text[: place + 1].count("}") for place in range(len(text))]
    assert min(depth) >= 0
    assert depth[-1] == 0
    assert text.count("$") % 2 == 0
    outside = re.sub(r"\$[^$]*\$", "", text)
    assert not re.search(r"[%#~^]", outside)
    assert "_" not in outside
    assert text.isascii()
    assert re.findall(r"\\begin{(\w+)}", text) == re.findall(r"\\end{(\w+)}", text)[::-1] == ["table", "tabular"]


def test_latex_rows_have_as_many_cells_as_columns(latex: str) -> None:
    columns = re.search(r"begin{tabular}{@{}(\w+)@{}}", latex)
    assert columns is not None
    body = latex[latex.index(r"\toprule") : latex.index(r"\bottomrule")]
    lines = [line for line in body.splitlines() if "&" in line]
    assert len(lines) == 1 + len(synthetic.ROWS)
    assert {len(re.findall(r"(?<!\\)&", line)) + 1 for line in lines} == {len(columns[1])}


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex here")
@pytest.mark.parametrize("packages", ["booktabs", "booktabs,graphicx"])
def test_latex_compiles(latex: str, packages: str, tmp_path: Path) -> None:
    (tmp_path / "paper.tex").write_text(rf"\documentclass{{article}}\usepackage{{{packages}}}\begin{{document}}{latex}\end{{document}}")
    done = subprocess.run(["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]


def test_write_leaves_both_files(tmp_path: Path) -> None:
    meta = META | {"table": only("perplexity")}
    (tmp_path / "results.json").write_text(json.dumps(RECORDS))
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    tables.write(tmp_path)
    assert (tmp_path / "table.md").read_text() == tables.markdown(RECORDS, meta["table"], meta)
    assert (tmp_path / "table.tex").read_text() == tables.latex(RECORDS, meta["table"], meta)


GROUPS = {"exact_em": ["exact_em", "hard_em"], "vq_ema": ["vq_gradient", "vq_ema"], "wake_sleep": ["wake_sleep"]}
GROUPED = SPEC | {"rows": ["exact_em", "hard_em", "vq_gradient", "vq_ema", "wake_sleep"], "columns": ["exact_nll"], "groups": GROUPS, "against": "the first"}


def test_rows_are_compared_within_their_group() -> None:
    words, column = table(RECORDS, GROUPED), cells(GROUPED, heading="Difference to the first (nats)")
    for reference, members in GROUPS.items():
        best = separated({row: of(row, "exact_nll") for row in members}) if len(members) > 1 else set()
        assert {row for row in members if cells(GROUPED)[row].best} == best
        for row in members:
            if row == reference:
                assert column[row] == Cell("–")
            else:
                difference = paired_interval(of(row, "exact_nll"), of(reference, "exact_nll"))
                assert column[row].value == f"{difference.mean:+.2f}".replace("-", "−")
    assert "the best mean among the rows of its group" in " ".join(words.caption)
    assert "minus the first's of the same seed" in " ".join(words.caption)


def test_a_row_may_be_compared_with_a_partner_of_its_own() -> None:
    spec = SPEC | {"partners": {"hard_em": "exact_em", "vq_ema": "vq_gradient"}, "against": "its partner"}
    column = cells(spec, heading="Difference to its partner (nats)")
    for row in SPEC["rows"]:
        if row not in spec["partners"]:
            assert column[row] == Cell("–")
        else:
            difference = paired_interval(of(row, "exact_nll"), of(spec["partners"][row], "exact_nll"))
            assert column[row].value == f"{difference.mean:+.2f}".replace("-", "−")
    assert {row for row, cell in cells(spec).items() if cell.best} == {row for row, cell in cells(SPEC).items() if cell.best}


def test_where_no_group_has_two_rows_nothing_is_compared() -> None:
    words = table(RECORDS, GROUPED | {"groups": {row: [row] for row in GROUPED["rows"]}})
    assert [str(heading) for heading in words.headings] == ["NLL, fitted prior (nats) ↓"]
    assert not any(cell.best for line in words.cells for cell in line)
    assert "Bold" not in " ".join(words.caption)
    assert "Last column" not in " ".join(words.caption)


def test_rows_that_are_cited_stand_below_with_the_published_value_alone() -> None:
    cited = [{"label": "Of others", "exact_nll": 12.3456}, {"label": "Of others still", "perplexity": 3}]
    words = table(RECORDS, only("exact_nll") | {"cited": cited})
    assert words.labels[-2:] == ["Of others", "Of others still"]
    assert [str(heading) for heading in words.headings[:2]] == ["NLL, fitted prior (nats) ↓", "NLL, fitted prior, expected (nats)"]
    assert [[cell.value for cell in line] for line in words.cells[-2:]] == [["–", "12.35", "–"], ["–", "–", "–"]]
    assert {line[1].value for line in words.cells[:-2]} == {"–"}
    assert len(words.labels) == len(words.cells) == len(SPEC["rows"]) + 2
    assert rows(tables.markdown(RECORDS, only("exact_nll") | {"cited": cited}))[-1][0] == "Of others still"
