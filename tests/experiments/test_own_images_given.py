"""What the second stage may be given: places, maps beside pictures, themselves in little, classes; learned, guided, and drawn in any size."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import avg_pool2d

from experiments import settings
from experiments.own_images import finished, second_stage
from experiments.own_images.sample import sample
from latentcomp.conditions import Conditioning, coordinate_map
from latentcomp.engine import Engine
from latentcomp.priors import context_of
from latentcomp.sampling.window import Cropped
from tests.experiments import stages
from tests.pictures import folder, pixels

pytestmark = pytest.mark.usefixtures("unchecked")
LARGE = ("data.view.resize=32", "data.view.crops=2")  # squares of 16 pixels of pictures of 32 x 44


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Pictures, label maps of three classes, grey maps, and first stages of the pictures and of the grey maps."""
    place = tmp_path_factory.mktemp("given")
    folder(place / "pictures", 9, height=40, width=55)
    for kind in ("labels", "grey"):
        (place / kind).mkdir()
        for i in range(9):
            grey = pixels(i, 40, 55)[..., 0]
            Image.fromarray(grey // 86 if kind == "labels" else grey).save(place / kind / f"{i:02d}.png")
    stages.first_stage(place / "first", place / "pictures", *LARGE)
    stages.first_stage(place / "depth", place / "grey", *LARGE, "channels=1", "codes=8")
    return place


def options(place, kind):
    return {
        "coordinates": ("condition=coordinates", "condition.codes=12", "second=modern"),
        "labels": ("condition=maps", f"condition.root={place / 'labels'}", "condition.classes=3", "second=gpt"),
        "grey": ("condition=maps", "condition.kind=grey", f"condition.root={place / 'grey'}", f"condition.stage={place / 'depth'}", "second=modern"),
        "low_resolution": ("condition=low_resolution", "second=modern", "second.order=ZCurve"),
    }[kind]


KINDS = ["coordinates", "labels", "grey", "low_resolution"]


@pytest.fixture(scope="module", params=KINDS)
def stage(request, place):
    path = stages.second_stage(place / request.param, place / "first", *options(place, request.param), "objective.drop=0.1")
    return request.param, path, finished.loaded(path)


def codes_of(kind, c, stage):
    """r by hand."""
    if kind == "coordinates":
        return (12 * avg_pool2d(c, 4)).round().long().flatten(1)
    if kind == "labels":
        return c[:, 0, 2::4, 2::4].flatten(1)
    own = finished.restored(stage.config.condition.stage) if kind == "grey" else stage.first
    return own.model.codebook.nearest(own.learner.posterior.encoder(c if kind == "grey" else avg_pool2d(c, 2)))


def test_squares_bring_their_condition_and_the_prior_scores_them_given_it(stage):
    kind, _, loaded = stage
    first = loaded.first.on(loaded.given.condition, None, Engine())
    batch = next(first.data.held_out("train"))
    r = context_of(loaded.model.prior, batch.c)
    by = 32 if kind == "labels" else 0  # behind the codes of the picture, in one table
    with torch.no_grad():
        assert torch.equal(r, codes_of(kind, batch.c, loaded) + by)
        z = first.learner.posterior(first.model, batch.x).mode
        assert not torch.allclose(loaded.model.prior(batch.c).log_prob(z), loaded.model.prior(batch.c.flip(0)).log_prob(z))
    if kind == "low_resolution":
        assert torch.equal(batch.c, batch.x)


def test_samples_of_any_size_are_given_it(stage, tmp_path):
    kind, path, loaded = stage
    out = sample([f"second={path}", "number=1", "size=16x24", "top_k=5", f"out={tmp_path}"])
    with Image.open(out / "000000.png") as image:
        assert image.size == (24, 16)
    samples = loaded.samples(finished.Drawing(), 0)
    whole, swapped = samples.of(torch.arange(2), (16, 24)), samples.of(torch.tensor([1, 0]), (16, 24))
    assert torch.allclose(whole, swapped.flip(0), atol=1e-5)
    guided = loaded.samples(finished.Drawing(guidance=3.0), 0).of(torch.arange(2), (16, 24))
    assert not torch.allclose(guided, whole)
    if kind != "coordinates":
        with pytest.raises(SystemExit, match="40 x 16 pixels are given parts of test pictures, and one has 32 x 44: ask for less"):
            samples.of(torch.arange(1), (40, 16))


def test_a_window_is_given_what_a_square_at_its_place_was_learned_with(place):
    """The coordinates of the part of a whole picture are those that the folder gives for the square there."""
    loaded = finished.loaded(stages.second_stage(place / "windows", place / "first", *options(place, "coordinates")))
    stage, view, size = loaded.given.stage, loaded.given.view, (32, 44)
    whole = Cropped(Conditioning(stage)(coordinate_map(1, *size)).view(1, 8, 11))
    for top in range(5):
        for left in range(8):
            at = ((4 * top + 0.5) / 17, (4 * left + 0.5) / 29, 1.0)  # the corner, out of 17 x 29
            assert torch.equal(whole(top, left, (4, 4), (8, 11)), stage.encode(view.coordinates(size, at).unsqueeze(0)))
    assert int(stage.encode(coordinate_map(1, *size)).max()) < loaded.given.codes


def test_samples_of_the_size_of_a_square_lie_at_places_of_their_own(place):
    loaded = finished.loaded(stages.second_stage(place / "squares", place / "first", *options(place, "coordinates")))
    c = loaded.given.of(torch.arange(40), (16, 16), lambda: None)
    assert torch.equal(loaded.given.of(torch.tensor([7]), (16, 16), lambda: None), c[7:8])
    rows, columns = (c[:, 0, 0, 0] * 32 * 32).round().long() // 32, (c[:, 0, 0, 0] * 32 * 32).round().long() % 32
    assert rows.unique().numel() > 8
    assert columns.unique().numel() > 8
    assert int(rows.max()) <= 16
    assert int(columns.max()) <= 16


@pytest.mark.parametrize("kind", [pytest.param("coordinates", marks=pytest.mark.slow), "labels"])
def test_it_learns_with_guidance(place, kind, tmp_path):
    """The whole command, a few updates of it."""
    config = settings.composed(
        ["experiment=images/second_stage", "budget=images/smoke", *stages.SECOND, f"first={place / 'first'}", *options(place, kind), "budget.updates=6",
         "optimizer.lr=0.02", "patience=0", "objective.drop=0.2", "sampling.guidance=2", "sampling.top_k=8"]
    )  # fmt: skip
    _, pictures = second_stage.execute(config, "row", folder=tmp_path)
    looks = pictures["curve"]
    assert looks[-1]["val_nats"] < looks[0]["val_nats"]
    out = sample([f"second={tmp_path}", "number=1", "seed=0"])
    with Image.open(out / "000000.png") as image:
        assert np.array_equal(np.array(image), (pictures["samples"][0] * 255).round().byte().permute(1, 2, 0).numpy()), "the run's own first sample"


def refused(place, *given):
    with pytest.raises(SystemExit) as caught:
        finished.built(settings.composed(["experiment=images/second_stage", *stages.SECOND, *given]), finished.restored(place / "first"))
    return str(caught.value)


def test_what_is_not_given_is_named(place, tmp_path):
    maps = ("condition=maps", f"condition.root={place / 'grey'}")
    assert "give condition.root=FOLDER, the folder that holds a map for each picture" in refused(place, "condition=maps")
    assert "is no folder: give the folder that holds a map" in refused(place, "condition=maps", "condition.root=nowhere", "condition.classes=3")
    assert "give condition.classes=NUMBER" in refused(place, *maps)
    assert "maps are of kind labels, grey, colour; got 'edges'" in refused(place, *maps, "condition.kind=edges")
    assert "wants condition.stage=FOLDER, the run of experiment=images/first_stage" in refused(place, *maps, "condition.kind=grey")
    assert "has 1 channel(s)" in refused(place, *maps, "condition.kind=colour", f"condition.stage={place / 'depth'}")
    assert "no folder of a first stage's run" in refused(place, *maps, "condition.kind=grey", f"condition.stage={tmp_path}")
    assert "condition.factor=3 makes squares of 16 pixels smaller" in refused(place, "condition=low_resolution", "condition.factor=3")
    assert "give second=modern or second=gpt" in refused(place, "condition=coordinates")
    assert "'Sideways' is no known order of sites; known: Identity" in refused(place, "second=gpt", "second.order=Sideways")
    assert "picture(s) lie in no class's folder" in refused(place, "condition=classes")


def test_a_misspelt_condition_of_a_folder_is_refused(place):
    """``classes`` is the second stage's word."""
    with pytest.raises(SystemExit, match="error: condition='classes' .*take \"class\""):
        finished.restored(place / "first").on("classes", None, Engine())


def test_a_folder_without_the_maps_of_its_pictures_is_refused_and_one_that_lacks_some_says_so(place, tmp_path):
    (tmp_path / "none").mkdir()
    folder(tmp_path / "some", 7, height=40, width=55)
    for name in ("none", "some"):
        stage = finished.restored(place / "first")
        _, given = finished.built(
            settings.composed(["experiment=images/second_stage", *stages.SECOND, "condition=maps", f"condition.root={tmp_path / name}", "condition.kind=colour",
                               f"condition.stage={place / 'first'}", "second=gpt"]),
            stage,
        )  # fmt: skip
        if name == "none":
            with pytest.raises(SystemExit, match=r"none that can be used is left.*\n.*it has no map: there is no 00 with a picture's ending in"):
                stage.on(given.condition, None, Engine())
        else:
            assert set(stage.on(given.condition, None, Engine()).data.report) == {"07.png", "08.png"}
