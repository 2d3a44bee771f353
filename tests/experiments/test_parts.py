"""Folders from strangers: booby traps that would leave a file behind them, in every spelling that hydra would call."""

import json
import re
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate

from experiments import parts, publish, report, settings
from experiments.execute import plain
from experiments.own_images import first_stage
from experiments.parts import RefusedName
from experiments.tables import BrokenFolder
from latentcomp.engine import Engine
from tests.experiments import synthetic

THUMBNAILS = "experiments.first_stage.Thumbnails"  # a name of the project's own


def traps(sprung: Path) -> dict[str, tuple[object, str]]:
    """Configurations that write the file, and the name by which each is refused."""
    opens = {"_target_": "builtins.open", "_args_": [str(sprung), "w"]}
    return {
        "a shell": ({"_target_": "posix.system", "command": f"touch {sprung}"}, "posix.system"),
        "eval": ({"_target_": "builtins.eval", "_args_": [f"open({str(sprung)!r}, 'w')"]}, "builtins.eval"),
        "open": (opens, "builtins.open"),
        "later": (opens | {"_partial_": True}, "builtins.open"),
        "not recursively": ({"_target_": THUMBNAILS, "_recursive_": False, "of": opens}, "builtins.open"),
        "in a list": ({"_target_": THUMBNAILS, "_args_": [1, [opens]]}, "builtins.open"),
        "without a call around it": ({"below": {"it": opens}}, "builtins.open"),
        "found by its path": ({"_target_": "hydra.utils.get_method", "path": "posix.system"}, "posix.system"),
        "found by its place": ({"_target_": "hydra.utils.get_method", "_args_": ["posix.system"]}, "_args_"),
        "found as a class": ({"_target_": "hydra.utils.get_class", "path": THUMBNAILS}, "hydra.utils.get_class"),
        "an interpolation": ({"word": "builtins.open", "call": opens | {"_target_": "${..word}"}}, "${..word}"),
        "a resolver": ({"_target_": THUMBNAILS, "of": "${oc.create:${...word}}"}, "${oc.create:"),
        "not a word": ({"_target_": ["builtins.open"]}, "builtins.open"),
    }


def stranger(folder: Path, **nodes: object) -> Path:
    torch.save({}, folder / first_stage.STATE)
    (folder / first_stage.CONFIG).write_text(json.dumps({"data": {"root": None}, "preset": {}} | nodes))
    return folder


def test_a_trap_would_be_sprung(tmp_path):
    """So that the tests below can fail."""
    with instantiate(traps(tmp_path / "sprung")["open"][0]):
        assert (tmp_path / "sprung").exists()


@pytest.mark.parametrize(("part", "around"), [("data", lambda node: {"root": "FOLDER", "view": node}), ("preset", lambda node: node)])
@pytest.mark.parametrize("kind", traps(Path()))
def test_a_stranger_s_first_stage_calls_nothing(tmp_path, kind, part, around):
    node, name = traps(tmp_path / "sprung")[kind]
    with pytest.raises(RefusedName, match=rf"config\.json names .*{re.escape(name)}.* \({part}.*trust it, write a file under experiments/conf"):
        first_stage.loaded(str(stranger(tmp_path, **{part: around(node)})), None, Engine())
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("preset", ["plain", "modern", "taming"])
def test_what_a_run_leaves_is_made(preset, tmp_path):
    config = plain(settings.composed(["experiment=images/first_stage", f"preset={preset}", "data.root=FOLDER", "weights=FOLDER"]))
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert parts.stored(tmp_path / "config.json", "preset") == {"preset": config["preset"]}


BROKEN = {None: "cannot be read", "{": "cannot be read", "[]": "lacks data, preset", '{"data": {}}': "lacks preset"}


@pytest.mark.parametrize(("content", "says"), BROKEN.items())
def test_a_broken_configuration_is_named(tmp_path, content, says):
    (stranger(tmp_path) / "config.json").unlink()
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(SystemExit, match=rf"config\.json {says}.*Make the folder anew"):
        first_stage.loaded(str(tmp_path), None, Engine())


@pytest.mark.parametrize("read", [report.write, publish.publish])
def test_a_stranger_s_table_draws_nothing_of_its_own(tmp_path, monkeypatch, read):
    """The module would spring the trap as soon as it is imported."""
    (tmp_path / "trapped.py").write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')\ndef pictures(runs, spec): return []\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(publish, "DOCS", tmp_path / "docs")
    folder = synthetic.write(tmp_path / "results", ("exact_em",), seeds=1)
    changed(folder, name="strange", table=synthetic.spec() | {"rows": ["exact_em"], "pictures": "trapped.pictures"})
    with pytest.raises(RefusedName, match=r"meta\.json names 'trapped\.pictures'"):
        read(folder)
    assert not (tmp_path / "sprung").exists()


def changed(folder: Path, **meta: object) -> None:
    (folder / "meta.json").write_text(json.dumps(json.loads((folder / "meta.json").read_text()) | meta))


@pytest.mark.parametrize("meta", [{"name": "../../outside"}, {"budget": "a/b"}, {"table": synthetic.spec() | {"rows": ["../exact_em"]}}])
def test_no_name_leads_out_of_its_folder(tmp_path, monkeypatch, meta):
    monkeypatch.setattr(publish, "DOCS", tmp_path / "here" / "docs")
    folder = synthetic.write(tmp_path / "results", ("exact_em",), seeds=1)
    changed(folder, **meta)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(BrokenFolder, match=r"says '.*/.*' where the name of a table, budget or row"):
        publish.publish(folder)
    assert sorted(tmp_path.rglob("*")) == before


def test_no_seed_leads_out_of_its_folder(tmp_path):
    folder = synthetic.write(tmp_path / "results", ("exact_em",), seeds=1)
    records = [record | {"seed": "../0"} for record in synthetic.records(("exact_em",), seeds=1)]
    (folder / "results.json").write_text(json.dumps(records))
    with pytest.raises(BrokenFolder, match=r"says '\.\./0' where"):
        report.write(folder)


def test_the_project_names_its_own():
    assert {"latentcomp.taming.presets.modern", "torch.optim.Adam"} <= parts.named("_target_")
    assert "latentcomp.nn.critic.group_norm" in parts.named("path")
    assert "experiments.mixture.figure.pictures" in parts.named("pictures")
    assert not {"posix.system", "null", "hydra.utils.get_class"} & (parts.named("_target_") | parts.named("pictures"))
