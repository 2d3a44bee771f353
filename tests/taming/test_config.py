"""Configurations: from paths, files and dictionaries, with errors that name what is missing."""

import io
import sys

import pytest

from latentcomp.taming.config import read_config

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
