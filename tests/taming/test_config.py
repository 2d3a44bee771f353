"""Configurations: from paths, files and dictionaries, with errors that name what is missing."""

import io
import re
import sys

import pytest

from latentcomp.taming.config import node, read_config

TEXT = "model:\n  base_learning_rate: 4.5e-06\n  target: taming.models.vqgan.VQModel\n  params:\n    n_embed: 32\n    ddconfig:\n      ch: 64\n"
NODE = {"target": "a.fork.of.VQModel", "params": {"n_embed": 32, "ddconfig": {"ch": 64}}}


def test_paths_files_and_dictionaries(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text(TEXT)
    with path.open() as text, path.open("rb") as binary:
        for source in (path, str(path), text, binary, io.StringIO(TEXT), io.BytesIO(TEXT.encode()), NODE, {"model": NODE, "data": {}}):
            config = read_config(source)
            assert config.kind == "VQModel"
            assert config["n_embed"] == 32
            assert config.section("ddconfig")["ch"] == 64
            assert config.get("remap") is None


def test_what_is_missing_is_named():
    config = read_config(NODE)
    with pytest.raises(ValueError, match="the config of VQModel lacks params.embed_dim"):
        config["embed_dim"]
    with pytest.raises(ValueError, match="the config of ddconfig lacks params.ch_mult"):
        config.section("ddconfig")["ch_mult"]
    with pytest.raises(ValueError, match=r"VQModel.params.ddconfig must be a dictionary with a 'target'"):
        config.node("ddconfig")
    with pytest.raises(ValueError, match=r"VQModel.params.n_embed must be a dictionary, got 32"):
        config.section("n_embed")
    assert read_config({"target": "taming.modules.losses.DummyLoss"}).params == {}


def test_numbers_are_checked_and_named():
    config = node({"target": "a.GPT", "params": {"n": 2, "many": [1, 2], "none": [], "rate": 0.5, "off": 0}}, "the config")
    assert (config.whole("n"), config.whole("missing", 3), config.whole("off", least=0)) == (2, 3, 0)
    assert (config.wholes("many"), config.wholes("none")) == ((1, 2), ())
    assert (config.rate("rate"), config.rate("missing"), config.rate("off")) == (0.5, 0.0, 0.0)
    with pytest.raises(ValueError, match="the config of GPT lacks params.missing"):
        config.whole("missing")


@pytest.mark.parametrize(
    ("read", "wrong", "wanted"),
    [
        *((lambda c: c.whole("x"), wrong, "a whole number of at least 1") for wrong in ("two", "2", 2.5, None, True, [2], 0, -1)),
        (lambda c: c.whole("x", 3), "two", "a whole number of at least 1"),
        (lambda c: c.whole("x", 3, least=0), -1, "a whole number of at least 0"),
        *((lambda c: c.wholes("x"), wrong, "a list of whole numbers of at least 1") for wrong in (2, "12", [1, "2"], [1, 0], [[1]], {1: 2}, None)),
        *((lambda c: c.rate("x"), wrong, r"a number in \[0, 1\]") for wrong in ("0.1", None, True, [0.1], -0.1, 1.5, float("nan"))),
    ],
)
def test_a_number_that_is_none_is_refused_by_its_key(read, wrong, wanted):
    with pytest.raises(ValueError, match=rf"GPT\.params\.x must be {wanted}, got {re.escape(repr(wrong))}: use the yaml file that was published"):
        read(node({"target": "a.GPT", "params": {"x": wrong}}, "the config"))


def test_arguments_that_are_no_dictionary_are_refused():
    with pytest.raises(ValueError, match=r"the config must be a dictionary with a 'target' \(a class name\) and 'params'"):
        read_config({"target": "a.VQModel", "params": 3})


@pytest.mark.parametrize("content", [{}, {"model": 3}, {"model": {"params": {}}}])
def test_what_is_no_config_is_refused(content):
    with pytest.raises(ValueError, match="the config must be a dictionary with a 'target'"):
        read_config(content)


def test_files_that_are_no_yaml_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_config(tmp_path / "nothing.yaml")
    with pytest.raises(ValueError, match="no plain yaml file"):
        read_config(io.StringIO("a: [1, 2"))
    with pytest.raises(ValueError, match="no plain yaml file"):
        read_config(io.StringIO("a: !!python/object/apply:os.system ['true']"))
    with pytest.raises(ValueError, match="the config must be a dictionary"):
        read_config(io.StringIO("just text"))


def test_a_missing_reader_is_named_with_the_command_that_installs_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(ImportError, match=r"pip install 'latentcomp\[taming\]', or pass a dictionary"):
        read_config(tmp_path / "a.yaml")
    assert read_config(NODE).kind == "VQModel"
