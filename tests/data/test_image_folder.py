"""Folders of pictures: in memory and on disk alike, resumed, shared, and with bad files among them."""

from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image

from latentcomp import Codebook, LatentVariableModel
from latentcomp.data import ImageFolder, Pairs, Parts, Split, View, image_split
from latentcomp.data.members import Pictures
from latentcomp.evaluate.training import Budget, train
from latentcomp.learners.straight_through import StraightThrough
from latentcomp.likelihoods import Gaussian
from latentcomp.nn import ImageDecoder, ImageTrunk, SiteHead
from latentcomp.posteriors import NearestCode
from latentcomp.priors import Uniform
from tests.pictures import draw, folder, pixels, truncated

VIEW = View(crop=16, resize=24, crops=3)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return folder(tmp_path_factory.mktemp("pictures"))


def same(a, b):
    return torch.equal(a.x, b.x) and torch.equal(a.index, b.index)


def test_squares_are_those_of_the_files(root):
    pictures = ImageFolder(root, View(crop=24, flip=False))
    (batch,) = pictures.held_out("validation")
    for x, index in zip(batch.x, batch.index.tolist(), strict=True):
        written = pixels(int(pictures.name("validation", index)[:2]))[:, 4:28]
        assert torch.equal(((x + 1) * 127.5).round(), torch.as_tensor(written).permute(2, 0, 1).float())
    assert len(pictures) == 12
    assert str(pictures.report) == "all pictures could be used"


@pytest.mark.parametrize("setting", [{"memory": False}, {"workers": 1}, {"memory": False, "workers": 2}])
def test_neither_memory_nor_workers_change_a_batch(root, setting):
    updates = 5 if "workers" in setting else 12
    first, second = (ImageFolder(root, VIEW, **s).batches(8, updates, seed=3) for s in ({}, setting))
    assert all(same(a, b) for a, b in zip(first, second, strict=True))


def test_a_run_goes_on_where_it_was_and_processes_share_batches(root):
    batches = ImageFolder(root, VIEW).batches(8, 10, seed=1)
    whole = list(batches)
    assert len(batches.after(6)) == 4
    assert all(same(a, b) for a, b in zip(batches.after(6), whole[6:], strict=True))
    shares = [list(batches.share(rank, 3)) for rank in range(3)]
    for batch, *parts in zip(whole, *shares, strict=True):
        assert torch.equal(batch.x, torch.cat([part.x for part in parts]))
    with pytest.raises(ValueError, match="cannot be shared by 9 processes"):
        batches.share(0, 9)
    with pytest.raises(ValueError, match="got done=11"):
        batches.after(11)


def test_an_epoch_shows_each_square_once_and_the_next_shows_others(root):
    pictures = ImageFolder(root, VIEW)
    batches = pictures.batches(4, 100)
    first, second = (list(islice(batches.after(epoch * batches.per_epoch), batches.per_epoch)) for epoch in (0, 1))
    seen = torch.cat([batch.index for batch in first])
    assert len(seen.unique()) == len(seen) == batches.examples // 4 * 4
    by_index = [{i: x for batch in epoch for i, x in zip(batch.index.tolist(), batch.x, strict=True)} for epoch in (first, second)]
    both = by_index[0].keys() & by_index[1].keys()
    assert sum(torch.equal(by_index[0][i], by_index[1][i]) for i in both) < len(both) / 3
    assert not same(first[0], next(iter(pictures.batches(4, 1, seed=1))))
    assert batches.size == 4
    assert pictures.batches(10_000, 1).size == batches.examples


def test_bad_files_are_left_out_and_named(tmp_path):
    folder(tmp_path)
    truncated(tmp_path / "03.png")
    (tmp_path / "05.png").write_bytes(b"")
    draw(tmp_path / "07.png", 7, height=16, width=40)
    whole = ImageFolder(tmp_path, VIEW, Parts(0.3, 0.3))
    assert len(whole) == 9
    assert set(whole.report) == {"03.png", "05.png", "07.png"}
    report = str(whole.report)
    assert "3 picture(s) were left out" in report
    assert "03.png: it cannot be read" in report
    assert "07.png: it has 40x16 pixels, and the shorter side is to have 24" in report
    assert len(ImageFolder(tmp_path, View(crop=16, resize=24, enlarge=True), Parts(0.3, 0.3))) == 10
    lazy = ImageFolder(tmp_path, VIEW, Parts(0.3, 0.3), memory=False)
    assert not lazy.report
    assert all(batch.size == 8 for batch in lazy.batches(8, 6))  # replaced, so that batches stay whole
    assert sum(batch.size for part in ("train", "validation", "test") for batch in lazy.held_out(part)) == 27  # left out
    assert set(lazy.report) == set(whole.report)
    assert all(batch.size for batch in ImageFolder(tmp_path, VIEW, memory=False, workers=1).batches(8, 3))


@pytest.mark.parametrize("memory", [True, False])
def test_a_link_to_nothing_is_left_out_and_named(tmp_path, memory):
    folder(tmp_path)
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    pictures = ImageFolder(tmp_path, VIEW, Parts(0.3, 0.3), memory=memory)
    shown = sum(batch.size for part in ("train", "validation", "test") for batch in pictures.held_out(part))
    assert shown == 12 * 3
    assert set(pictures.report) == {"gone.png"}
    assert "gone.png: it cannot be read ([Errno 2] No such file or directory): it is" in str(pictures.report)
    assert "a link to nothing" in str(pictures.report)


@pytest.mark.parametrize("memory", [True, False])
def test_a_folder_of_bad_files_alone_is_refused(tmp_path, memory):
    for i in range(6):
        (tmp_path / f"{i}.jpg").write_bytes(b"not a picture")
    with pytest.raises(ValueError, match=r"none that can be used is left.*\n.*0.jpg: it cannot be read|none of the .* pictures can be read"):
        list(ImageFolder(tmp_path, VIEW, memory=memory).batches(2, 1))


def test_grey_where_colour_is_wanted_is_repeated_or_refused(tmp_path):
    for i in range(5):
        draw(tmp_path / f"{i}.png", i, "L")
    (batch,) = ImageFolder(tmp_path, View(crop=16)).batches(4, 1)
    assert torch.equal(batch.x[:, 0], batch.x[:, 2])
    with pytest.raises(ValueError, match="it is grey, and colour was asked for"):
        ImageFolder(tmp_path, View(crop=16, strict=True))


@pytest.mark.parametrize("memory", [True, False])
def test_a_class_without_a_usable_training_picture_is_named(tmp_path, memory):
    """``b`` holds a bad picture and good ones, ``c`` one that is truncated, ``d`` a link to nothing."""
    for name in "ab":
        folder(tmp_path / name, 9)
    for name in ("b/00.png", "c/a.png"):
        truncated(draw(tmp_path / name, 0))
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    pictures = ImageFolder(tmp_path, VIEW, condition="class", memory=memory)
    assert pictures.classes == ["a", "b", "c", "d"]
    assert pictures.report.unlearned == ("c", "d")
    assert str(pictures.report).endswith("2 class(es) have no training picture that can be used, and are not learned: c, d")
    whole = list(pictures.batches(8, 6))
    assert {int(c) for batch in whole for c in batch.c} == {0, 1}
    assert not ImageFolder(tmp_path, VIEW, memory=memory).report.unlearned


@pytest.mark.parametrize("memory", [True, False])
def test_a_class_whose_pictures_are_all_held_out_is_named(tmp_path, memory):
    for part in ("train", "val", "test"):
        folder(tmp_path / part / "cats", 2)
    folder(tmp_path / "test" / "dogs", 2)
    pictures = ImageFolder(tmp_path, VIEW, Parts(by="folder"), "class", memory)
    assert pictures.classes == ["cats", "dogs"]
    assert not list(pictures.report)
    assert str(pictures.report) == "1 class(es) have no training picture that can be used, and are not learned: dogs"
    assert pictures.report


def test_where_pictures_are_not_kept_one_of_each_class_is_looked_at(tmp_path, monkeypatch):
    for name in "ab":
        folder(tmp_path / name, 9)
    read, seen = Pictures.read, []
    monkeypatch.setattr(Pictures, "read", lambda self, entry: (seen.append(entry.label), read(self, entry))[1])
    assert not ImageFolder(tmp_path, VIEW, condition="class", memory=False).report
    assert sorted(seen) == [0, 1]
    seen.clear()
    ImageFolder(tmp_path, VIEW, memory=False)
    assert not seen


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("condition", ["classes", "Class", "", "coordinates", 1])
def test_a_condition_that_no_folder_gives_is_refused(root, condition):
    with pytest.raises(ValueError, match=rf"condition={condition!r} .*\"class\".*\"place\".*Pairs.*None"):
        ImageFolder(root, VIEW, condition=condition)


def test_classes(tmp_path):
    for name in ("cats", "dogs"):
        folder(tmp_path / name, 6)
    pictures = ImageFolder(tmp_path, VIEW, condition="class")
    assert pictures.classes == ["cats", "dogs"]
    for batch in [*pictures.batches(8, 3), *pictures.held_out("test")]:
        assert batch.c.dtype == torch.long
        part = "train" if batch.size == 8 else "test"
        assert [pictures.classes[c] for c in batch.c] == [pictures.name(part, i).split("/")[0] for i in batch.index.tolist()]


@pytest.mark.parametrize("kind", ["labels", "grey", "colour"])
def test_maps_are_cut_and_mirrored_with_their_pictures(tmp_path, kind):
    """The map is the picture's own red channel, or the picture, at twice its size (labels: at its own size, so that nearest pixels are the same)."""
    folder(tmp_path / "images")
    (tmp_path / "maps").mkdir()
    for i in range(12):
        image = Image.fromarray(pixels(i)) if kind == "colour" else Image.fromarray(pixels(i)[..., 0])
        image.resize((32, 24) if kind == "labels" else (64, 48), Image.Resampling.NEAREST).save(tmp_path / "maps" / f"{i:02d}.tif")
    pictures = ImageFolder(tmp_path / "images", View(crop=16, resize=24), condition=Pairs(tmp_path / "maps", kind))
    for batch in pictures.batches(4, 4):
        assert batch.c.shape == (4, 3 if kind == "colour" else 1, 16, 16)
        if kind == "labels":
            assert torch.equal(batch.c, ((batch.x[:, :1] + 1) * 127.5).round().long())
        else:
            assert (batch.c - batch.x[:, : batch.c.shape[1]]).abs().mean() < 0.05  # the edge of the disc is blurred


@pytest.mark.parametrize("workers", [0, 1])
def test_squares_know_where_they_lie(tmp_path, workers):
    """Pictures whose pixels say where they are: a slope down, a slope across."""
    down, across = np.mgrid[:24, :40]
    for i in range(4):
        Image.fromarray(np.stack([down * 8, across * 4, 0 * down], -1).astype(np.uint8)).save(tmp_path / f"{i}.png")
    pictures = ImageFolder(tmp_path, View(crop=16, resize=24, flip=False), condition="place", workers=workers)
    for batch in [*pictures.batches(2, 3), *pictures.held_out("test")]:
        assert batch.c.shape == (batch.size, 1, 16, 16)
        rows, columns = (((batch.x[:, channel] + 1) * 127.5).round() / step for channel, step in ((0, 8), (1, 4)))
        torch.testing.assert_close(batch.c[:, 0], (rows * 40 + columns) / (24 * 40))


@pytest.mark.usefixtures("unchecked")
def test_a_missing_a_damaged_and_a_stretched_map_are_reported(tmp_path):
    folder(tmp_path / "images")
    maps = folder(tmp_path / "maps")
    (maps / "00.png").unlink()
    truncated(maps / "01.png")
    draw(maps / "02.png", 2, height=24, width=48)
    report = str(ImageFolder(tmp_path / "images", VIEW, condition=Pairs(maps, "colour")).report)
    assert "00.png: it has no map: there is no 00 with a picture's ending" in report
    assert "01.png: of its map 01.png: it cannot be read" in report
    assert "02.png: its map is 48x24, which is not in the proportions of 32x24" in report
    with pytest.raises(FileNotFoundError, match="that holds a map for each picture"):
        Pairs(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="got 'edges'"):
        Pairs(maps, "edges")


def test_a_folder_is_a_split_that_the_protocol_trains_on(root):
    split = image_split(root, View(crop=8, resize=24, crops=4), Parts(0.2, 0.2))
    assert isinstance(split, Split)
    assert split.validation.shape[1:] == (3, 8, 8)
    torch.manual_seed(0)
    model = LatentVariableModel(Uniform(2, 4), Codebook(4, 4), ImageDecoder(2, 4, (32,), (3, 8, 8)), Gaussian())
    learner = StraightThrough(NearestCode(torch.nn.Sequential(ImageTrunk((3, 8, 8), (32,)), SiteHead(32, 2, 4))))
    optimizer = torch.optim.Adam([*model.parameters(), *learner.parameters()], 1e-2)
    training = train(model, learner, split, optimizer, Budget(updates=20, size=8, every=10))
    assert training.curve[-1]["val_nll"] < training.curve[0]["val_nll"]


def test_bytes_are_kept_and_nothing_larger(root):
    kept = ImageFolder(root, VIEW).pictures["train"].kept
    assert all(image.dtype == torch.uint8 and image.shape == (3, 24, 32) for image, _ in kept)


def test_a_split_with_other_tensors_still_knows_its_folder(root):
    """As when a run moves it to another device or precision."""
    split = image_split(root, VIEW)
    other = split._replace(validation=split.validation.double())
    assert other.validation.dtype == torch.float64
    assert all(same(a, b) for a, b in zip(split.batches(8, 3), other.batches(8, 3), strict=True))


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_draw_nothing_from_the_global_generator(root, workers):
    """Dropout draws from it: a run that goes on starts its batches once more than one that was never stopped, and must not differ by that."""
    batches = iter(ImageFolder(root, VIEW, workers=workers).batches(8, 3))
    before = torch.get_rng_state()
    next(batches)
    assert torch.equal(torch.get_rng_state(), before)
