"""Checkpoints are read without the packages that wrote them and without running anything; what should not be there is refused by its name."""

import argparse
import io
import os
import pickle
import re
import subprocess
import sys
import types
import zipfile
from collections import Counter, OrderedDict

import pytest
import torch

from latentcomp.taming.pickles import read_state

STATE = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.ones(2)}
formats = pytest.mark.parametrize("archive", [True, False], ids=["archive", "old format"])


def written(content: object, archive: bool = True) -> io.BytesIO:
    """A checkpoint in memory, in either format."""
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=archive)
    file.seek(0)
    return file


def fake_package(monkeypatch: pytest.MonkeyPatch, name: str, source: str) -> types.ModuleType:
    """A module of that name, for as long as a checkpoint is being written."""
    module = types.ModuleType(name)
    exec(source, module.__dict__)
    for parent in (name.rsplit(".", depth)[0] for depth in range(name.count(".") + 1)):
        monkeypatch.setitem(sys.modules, parent, module if parent == name else types.ModuleType(parent))
    return module


LIGHTNING = """
class ModelCheckpoint:
    def __init__(self, best):
        self.best = best
class Callback:
    def __reduce__(self):
        return (Callback, (1, 2))
class AttributeDict(dict):
    pass
class Milestones(list):
    pass
class Slotted:
    __slots__ = ("a",)
def loud(*args):
    raise RuntimeError("a checkpoint's function was called")
class Loud:
    def __setstate__(self, state):
        raise RuntimeError("a checkpoint's method was called")
"""


@formats
def test_objects_of_lightning_become_inert(monkeypatch, archive):
    lightning = fake_package(monkeypatch, "pytorch_lightning.callbacks.model_checkpoint", LIGHTNING)
    for thing in vars(lightning).values():
        if isinstance(thing, type | types.FunctionType):
            thing.__module__ = lightning.__name__
    loud, slotted = lightning.Loud(), lightning.Slotted()
    loud.x, slotted.a = 1, 2
    content = {
        "state_dict": OrderedDict(STATE),
        "callbacks": {lightning.ModelCheckpoint: {"best": torch.tensor(1.0)}, lightning.Callback: {"best": 2}},  # classes as keys
        "more": [lightning.ModelCheckpoint(0.5), lightning.Callback(), lightning.loud, loud, slotted],
        "hyper_parameters": lightning.AttributeDict(lr=1e-4, config=lightning.AttributeDict(a=1)),
        "milestones": lightning.Milestones([1, 2, 3]),
        "arguments": argparse.Namespace(gpus="0,", seed=23),
        "optimizer_states": [{"state": {0: {"step": 3, "exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-4, "betas": (0.5, 0.9)}]}],
    }
    file = written(content, archive)
    monkeypatch.undo()
    assert "pytorch_lightning" not in sys.modules
    state = read_state(file)
    assert state.keys() == STATE.keys()
    assert all(torch.equal(state[name], STATE[name]) for name in STATE)
    assert "pytorch_lightning" not in sys.modules


@formats
def test_objects_of_omegaconf_become_inert(archive):
    omegaconf = pytest.importorskip("omegaconf")
    config = omegaconf.OmegaConf.create({"model": {"params": {"ch_mult": [1, 2], "lr": 1e-4, "name": "a", "flag": True, "none": None}}})
    state = read_state(written({"state_dict": STATE, "hyper_parameters": config}, archive))
    assert torch.equal(state["a.weight"], STATE["a.weight"])


class Trap:
    """Wants a command to be run when it is read."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return (self.function, self.arguments)


@formats
@pytest.mark.parametrize(
    ("function", "arguments", "name"),
    [
        (os.system, ("touch {}",), "posix.system"),
        (subprocess.Popen, (["touch", "{}"],), "subprocess.Popen"),
        (eval, ("open('{}', 'w')",), "builtins.eval"),
        (exec, ("open('{}', 'w')",), "builtins.exec"),
        (getattr, ("text", "upper"), "builtins.getattr"),
        (torch.hub.download_url_to_file, ("file:///etc/passwd", "{}"), "torch.hub.download_url_to_file"),
    ],
)
def test_booby_traps_are_refused_by_name_and_not_sprung(tmp_path, archive, function, arguments, name):
    sprung = tmp_path / "sprung"
    filled = [a.format(sprung) if isinstance(a, str) else [b.format(sprung) for b in a] if isinstance(a, list) else a for a in arguments]
    with pytest.raises(ValueError, match=rf"it names {re.escape(name)}, which"):
        read_state(written({"state_dict": STATE, "trap": Trap(function, *filled)}, archive))
    assert not sprung.exists()


@formats
def test_a_function_that_is_named_and_never_called_is_refused_too(archive):
    with pytest.raises(ValueError, match=r"was refused, and nothing in it was executed: it names posix\.system, which"):
        read_state(written({"state_dict": STATE, "function": os.system}, archive))


def archived(content: bytes) -> io.BytesIO:
    """An archive around a pickle that torch itself would not write."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, part in {"data.pkl": content, "version": b"3\n", "byteorder": b"little"}.items():
            archive.writestr(f"archive/{name}", part)
    file.seek(0)
    return file


@pytest.mark.parametrize("around", [archived, io.BytesIO], ids=["archive", "plain pickle"])
@pytest.mark.parametrize("name", ["torch.hub load", "torch os.system", "torch.serialization os.system", "torch.nn.modules.linear Linear"])
def test_what_torch_holds_beside_tensors_is_foreign_too(tmp_path, around, name):
    """By its name or by a path through torch's own imports; not called damage, nor is anybody told how to let it in."""
    content = b"\x80\x04c" + name.replace(" ", "\n").encode() + f"\n(S'touch {tmp_path / 'sprung'}'\ntR.".encode()
    with pytest.raises(ValueError, match=rf"was refused, and nothing in it was executed: it names {re.escape(name.replace(' ', '.'))}, which"):
        read_state(around(content))
    assert not (tmp_path / "sprung").exists()


def test_a_whole_network_is_refused_by_the_names_of_its_modules():
    with pytest.raises(ValueError, match=r"it names torch\.nn\.modules\.linear\.Linear, which .* save its state_dict alone"):
        read_state(written(torch.nn.Linear(2, 2)))


def damaged(file: io.BytesIO) -> io.BytesIO:
    """An archive without the numbers of its first tensor."""
    left = io.BytesIO()
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(left, "w") as new:
        for name in old.namelist():
            if not name.endswith("/data/0"):
                new.writestr(name, old.read(name))
    left.seek(0)
    return left


@formats
def test_damage_to_a_state_of_any_tensors_is_called_damage(archive):
    """Nothing that tensors need is foreign: not their dtypes, storages, layouts, devices or quantisers."""
    kinds = [torch.ones(2, dtype=dtype) for dtype in (torch.half, torch.bfloat16, torch.int8, torch.bool, torch.complex64)]
    state = {str(i): t for i, t in enumerate([*kinds, torch.nn.Parameter(torch.ones(2)), torch.eye(2).to_sparse(), torch.ones(2, device="meta")])}
    content = {"state_dict": OrderedDict(state), "more": [torch.float32, torch.Size([1]), torch.device("cpu"), b"bytes", {1}, 1j, Counter("a")]}
    file = written(content, archive)
    assert read_state(file).keys() == state.keys()
    with pytest.raises(ValueError, match=r"cannot be read as a checkpoint \(.*\): it is damaged, or of another kind"):
        read_state(damaged(file) if archive else io.BytesIO(file.getvalue()[:-10]))


@formats
def test_a_trap_inside_the_state_or_behind_lightnings_objects_is_refused(monkeypatch, tmp_path, archive):
    lightning = fake_package(monkeypatch, "pytorch_lightning.fake", "class Callback:\n    pass\n")
    lightning.Callback.__module__ = lightning.__name__
    callback = lightning.Callback()
    callback.trap = Trap(os.system, f"touch {tmp_path / 'sprung'}")
    file = written({"state_dict": STATE, "callbacks": callback}, archive)
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"it names posix\.system, which"):
        read_state(file)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("protocol", range(6))
def test_a_plain_pickle_with_a_trap_is_refused_by_name(tmp_path, protocol):
    file = io.BytesIO(pickle.dumps({"state_dict": Trap(os.system, f"touch {tmp_path / 'sprung'}")}, protocol))
    with pytest.raises(ValueError, match=r"posix\.system"):
        read_state(file)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("name", ["pytorch_lightning.os system", "lightningrod.evil x", "argparse_evil x"])
def test_a_name_that_only_begins_like_a_known_package_is_not_taken_for_it(name):
    module, attribute = name.split()
    content = b"\x80\x02c" + f"{module}\n{attribute}\n".encode() + b")R."
    if module.startswith("pytorch_lightning."):  # a package's submodule: inert, whatever it is called
        with pytest.raises(ValueError, match="cannot be read as a checkpoint|holds no state_dict"):
            read_state(io.BytesIO(content))
    else:
        with pytest.raises(ValueError, match=module):
            read_state(io.BytesIO(content))


@formats
@pytest.mark.parametrize("under", [lambda state: state, lambda state: {"state_dict": state}], ids=["bare", "under state_dict"])
def test_a_state_whose_keys_are_no_names_is_refused(archive, under):
    with pytest.raises(ValueError, match=r"names weights by strings, .* its state_dict has the key 1: save that of a module, model.state_dict\(\)"):
        read_state(written(under(STATE | {1: torch.ones(2)}), archive))


@formats
def test_paths_open_files_and_bare_states(tmp_path, archive):
    path = tmp_path / "a.ckpt"
    path.write_bytes(written(STATE, archive).read())
    with path.open("rb") as file:
        for source in (path, str(path), file, io.BytesIO(path.read_bytes())):
            assert torch.equal(read_state(source)["a.bias"], STATE["a.bias"])


def test_what_is_no_checkpoint_is_said_to_be_none(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_state(tmp_path / "nothing.ckpt")
    path = tmp_path / "text.ckpt"
    path.write_text("no checkpoint\n" * 10)
    with pytest.raises(ValueError, match=r"text\.ckpt cannot be read as a checkpoint"):
        read_state(path)
    whole = written({"state_dict": STATE}).read()
    with pytest.raises(ValueError, match="cannot be read as a checkpoint"):
        read_state(io.BytesIO(whole[: len(whole) // 2]))
    for content in ({"epoch": 3}, {"state_dict": {}}, [1, 2], {"state_dict": {"a": 1}}):
        with pytest.raises(ValueError, match="holds no state_dict"):
            read_state(written(content))
