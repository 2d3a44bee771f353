"""Samples of a finished second stage by a command: of any size, resumed by number, and refused where they cannot be drawn."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from experiments import settings
from experiments.own_images import finished
from experiments.own_images import second_stage as run
from experiments.own_images.sample import Request, sample
from latentcomp.noise import Noise
from latentcomp.sampling.drawing import Drawing
from tests.experiments.stages import SECOND, first_stage, second_stage
from tests.pictures import draw, folder, truncated

pytestmark = pytest.mark.usefixtures("unchecked")


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    """A second stage given nothing, and one given a class."""
    place = tmp_path_factory.mktemp("stages")
    for name in ("discs", "slopes"):
        folder(place / "pictures" / name, 3)
    first = first_stage(place / "first", place / "pictures")
    return second_stage(place / "free", first), second_stage(place / "classes", first, "condition=classes")


def pixels(out, i):
    with Image.open(out / f"{i:06d}.png") as image:
        return np.array(image)


def test_the_command_draws_what_the_prior_draws_and_says_where(stages, tmp_path, capsys):
    out = sample([f"second={stages[0]}", "number=3", "seed=4", f"out={tmp_path / 'out'}"])
    assert capsys.readouterr().out == f"3 samples, 3 of them new, and samples.png are in {out}\n"
    stage = finished.loaded(stages[0])
    q = stage.model.prior()
    noise = Noise(4, -1, torch.arange(3))
    x = stage.model.decode(stage.model.codebook(q.sample((3,), noise))).mean.clamp(-1, 1)
    for i in range(3):
        assert np.array_equal(pixels(out, i), ((x[i] + 1) / 2 * 255).round().byte().permute(1, 2, 0).numpy())
    with Image.open(out / "samples.png") as grid:
        assert grid.size == (3 * (6 * 16 + 2), 6 * 16 + 2)


@pytest.mark.parametrize("size", ["16x16", "16x20"])
def test_a_sample_is_a_function_of_seed_and_number_alone(stages, tmp_path, size, capsys):
    whole = sample([f"second={stages[1]}", "number=4", f"size={size}", "batch=4", f"out={tmp_path / 'whole'}"])
    parts = sample([f"second={stages[1]}", "number=1", f"size={size}", "batch=1", f"out={tmp_path / 'parts'}"])
    kept = (parts / "000000.png").stat().st_mtime_ns
    sample([f"second={stages[1]}", "number=4", f"size={size}", "batch=2", f"out={parts}"])
    assert "4 samples, 3 of them new" in capsys.readouterr().out
    assert (parts / "000000.png").stat().st_mtime_ns == kept
    for i in range(4):
        assert pixels(whole, i).shape == (*map(int, size.split("x")), 3)
        assert np.array_equal(pixels(whole, i), pixels(parts, i))
    assert not np.array_equal(pixels(whole, 0), pixels(whole, 2))


def test_classes_take_turns_or_one_is_asked_for(stages, tmp_path):
    mixed = sample([f"second={stages[1]}", "number=4", f"out={tmp_path / 'mixed'}"])
    slopes = sample([f"second={stages[1]}", "number=4", "label=slopes", f"out={tmp_path / 'slopes'}"])
    same = [np.array_equal(pixels(mixed, i), pixels(slopes, i)) for i in range(4)]
    assert same == [False, True, False, True]
    with pytest.raises(SystemExit, match="there is no class 'cats': the pictures' are discs, slopes"):
        sample([f"second={stages[1]}", "label=cats", f"out={tmp_path / 'cats'}"])
    with pytest.raises(SystemExit, match="label=discs: this prior is given no class"):
        sample([f"second={stages[0]}", "label=discs", f"out={tmp_path / 'cats'}"])


@pytest.mark.parametrize("memory", ["true", "false"])
def test_a_class_that_nothing_was_learned_of_is_left_out_of_the_turns_and_refused(tmp_path, memory, capsys):
    """``blots`` comes first by name, so that the numbers of all others hang on its being counted."""
    for name in ("discs", "slopes"):
        folder(tmp_path / "pictures" / name, 6)
    truncated(draw(tmp_path / "pictures" / "blots" / "a.png", 0))
    first = first_stage(tmp_path / "first", tmp_path / "pictures", f"data.memory={memory}")
    options = ["experiment=images/second_stage", "budget=images/smoke", *SECOND, f"first={first}", "condition=classes"]
    run.execute(settings.composed(options), "row", folder=tmp_path / "second")
    assert "1 class(es) have no training picture that can be used, and are not learned: blots" in capsys.readouterr().out
    given = finished.loaded(tmp_path / "second").given
    assert given.names == ("blots", "discs", "slopes")
    assert given.of(torch.arange(5), (16, 16), None).tolist() == [1, 2, 1, 2, 1]
    with pytest.raises(SystemExit, match="error: nothing was learned of class 'blots'.*discs, slopes"):
        sample([f"second={tmp_path / 'second'}", "number=1", "label=blots", f"out={tmp_path / 'out'}"])
    assert not (tmp_path / "out").exists()


def test_what_is_left_open_is_as_the_second_stage_was_told(stages, tmp_path):
    told = second_stage(tmp_path / "told", finished.loaded(stages[0]).first.folder, "sampling.top_k=1")
    out = sample([f"second={told}", "number=3"])
    assert out == told / "samples"
    assert np.array_equal(pixels(out, 0), pixels(out, 2)), "greedy"
    assert json.loads((out / "samples.json").read_text())["top_k"] == 1
    free = sample([f"second={told}", "number=3", "top_k=null", f"out={tmp_path / 'free'}"])
    assert not np.array_equal(pixels(free, 0), pixels(free, 2))


def test_other_samples_are_not_mixed(stages, tmp_path):
    sample([f"second={stages[0]}", "number=1", f"out={tmp_path}"])
    with pytest.raises(SystemExit, match=r"drawn otherwise: seed was 0, is 1; temperature was 1.0, is 0.5. Give out=FOLDER"):
        sample([f"second={stages[0]}", "number=1", "seed=1", "temperature=0.5", f"out={tmp_path}"])


REFUSED = {
    "size=18x16": "in steps of 4, a code; got 18 x 16",
    "size=12x64": "at least 16 x 16 pixels, which were learned",
    "size=large": "size=large is no HEIGHTxWIDTH in pixels, such as 512x768",
    "top_k=33": "top_k=33 codes cannot stay of V=32",
    "top_p=1.5": r"top_p is a probability, so it must lie in \(0, 1\]; got 1.5",
    "temperature=0": "the temperature must be positive and finite; got 0",
    "guidance=2": "guidance=2.0 .* this prior has none: give condition=",
    "number=none": "'none' of type 'str' could not be converted to Integer",
    "number=0": "at least one sample is drawn",
    "accelerator=abacus": "accelerator=abacus: it is auto, cpu or gpu",
    "tempreature=1": "there is no option 'tempreature'. Did you mean temperature",
    "quickly": "'quickly' is no option: write key=value",
}


@pytest.mark.parametrize("option", REFUSED)
def test_what_cannot_be_drawn_is_refused(stages, option, tmp_path):
    with pytest.raises(SystemExit, match=REFUSED[option]):
        sample([f"second={stages[0]}", f"out={tmp_path}", option])


def test_a_stage_that_is_not_there_or_another_is_refused(stages, tmp_path):
    with pytest.raises(SystemExit, match="python -m experiments.own_images.sample"):
        sample([])
    with pytest.raises(SystemExit, match="give second=FOLDER"):
        sample(["number=3"])
    with pytest.raises(SystemExit, match="it lacks second_stage.pt and config.json. Run experiment=images/second_stage before"):
        sample([f"second={tmp_path}"])
    first = finished.loaded(stages[0]).first
    other = first_stage(tmp_path / "other", first.config.data.root, seed=7)
    with pytest.raises(SystemExit, match="is not the first stage whose codes .* learned: give first=FOLDER"):
        sample([f"second={stages[0]}", f"first={other}"])
    told = second_stage(tmp_path / "told", first.folder)
    described = json.loads((told / "config.json").read_text())
    described["second"]["width"] = 32
    (told / "config.json").write_text(json.dumps(described))
    with pytest.raises(SystemExit, match="second_stage.pt does not hold the prior that config.json beside it describes"):
        sample([f"second={told}"])
    assert Drawing._fields == tuple(name for name in Request.__annotations__ if name in Drawing._fields)


def test_the_commands_of_the_docs_have_options_that_exist():
    lines = (Path(__file__).parents[2] / "docs" / "own_images.md").read_text().splitlines()
    commands = [line.split()[3:] for line in lines if line.startswith(".venv/bin/python -m experiments.")]
    assert {"second", "number", "size"} <= {option.partition("=")[0] for line in lines if "own_images.sample" in line for option in line.split()[3:]}
    for line in commands:
        if any(option.startswith("second=outputs") for option in line):
            assert {option.partition("=")[0] for option in line} <= set(Request.__annotations__)
        elif "condition=coordinates" in line or "condition=classes" in line:
            settings.composed(line)
