"""Data of the tables: what a user must bring is named, and what stands in has the conditions that it says."""

import struct

import pytest
import torch
from PIL import Image

from experiments.taming import sets
from latentcomp.data.views import View
from tests.pictures import draw, folder
from tests.small_mnist import images

SMALL = View(crop=16)


@pytest.mark.parametrize(
    ("condition", "expected"),
    [(None, "coco, the pictures"), ("class", "one sub-folder for each class"), ("labels", "coco/images.* coco/maps, label maps"), ("depth", "grey depth maps")],
)
def test_a_row_says_which_folder_it_wants(condition, expected, tmp_path):
    with pytest.raises(SystemExit, match=rf"learns from COCO-Stuff: give data\.root=FOLDER, a folder that holds .*{expected}"):
        sets.own(None, "coco", "COCO-Stuff", condition)
    with pytest.raises(SystemExit, match=f"there is no folder {tmp_path}/coco.*must hold .*{expected}.*COCO-Stuff"):
        sets.own(tmp_path, "coco", "COCO-Stuff", condition)


def test_pictures_with_label_maps_beside_them(tmp_path):
    folder(tmp_path / "coco" / "images", 8)
    for i in range(8):
        (tmp_path / "coco" / "maps").mkdir(exist_ok=True)
        Image.new("L", (32, 24), i % 5).save(tmp_path / "coco" / "maps" / f"{i:02d}.png")
    data = sets.own(tmp_path, "coco", "COCO-Stuff", "labels", 5, SMALL)
    assert data.values == 5
    seen = [batch for part in ("train", "validation", "test") for batch in data.held_out(part)]
    assert sum(batch.size for batch in seen) == 8
    for batch in seen:
        assert batch.x.shape[1:] == (3, 16, 16)
        assert batch.c.shape == (batch.size, 1, 16, 16)
        assert batch.c.dtype == torch.long
        assert (batch.c == batch.c[:, :, :1, :1]).all()


def test_classes_are_the_folders(tmp_path):
    for name in ("dogs", "cats"):
        for i in range(6):
            draw(tmp_path / "imagenet" / name / f"{name}{i}.png", i)
    data = sets.own(tmp_path, "imagenet", "ImageNet", "class", view=SMALL)
    assert data.values == 2
    assert {int(label) for batch in data.held_out("train") for label in batch.c} <= {0, 1}


def test_digits_are_parted_by_fold_and_the_test_pictures_are_the_same():
    first, second = sets.digits(fold=0), sets.digits(fold=1)
    assert {part: first.parts[part].size for part in first.parts} == {"train": 1440, "validation": 60, "test": 297}
    assert torch.equal(first.parts["test"].x, second.parts["test"].x)
    assert not torch.equal(first.parts["validation"].x, second.parts["validation"].x)
    learn = {picture.numpy().tobytes() for picture in torch.cat([first.parts["train"].x, first.parts["validation"].x])}
    other = {picture.numpy().tobytes() for picture in torch.cat([second.parts["train"].x, second.parts["validation"].x])}
    assert learn == other, "the fold parts the same 1,500 pictures otherwise"
    assert first.image_shape == (1, 32, 32)
    assert first.parts["train"].x.abs().max() <= 1


def test_some_digits_alone_with_their_classes():
    from sklearn.datasets import load_digits

    data = sets.digits("class", keep=[1, 7], side=16, channels=3)
    assert data.values == 2
    assert data.image_shape == (3, 16, 16)
    target = torch.as_tensor(load_digits().target)
    kept = target[1500:][torch.isin(target[1500:], torch.tensor([1, 7]))]
    assert torch.equal(data.parts["test"].c, (kept == 7).long())
    assert torch.equal(data.labels["test"], data.parts["test"].c)


def test_maps_are_made_of_the_pictures():
    x = torch.linspace(-1, 1, 256).view(1, 1, 16, 16).expand(2, 3, -1, -1)
    assert sets.levels(x)[0, 0].flatten().bincount().tolist() == [85, 86, 85]
    assert torch.equal(sets.levels(x)[0, 0].flatten(), torch.linspace(-1, 1, 256).add(1).mul(1.5).floor().clamp(0, 2).long())
    assert torch.allclose(sets.blurred(torch.full((1, 3, 16, 16), 0.3)), torch.tensor(0.3))
    assert sets.blurred(x).shape == (2, 1, 16, 16)
    assert sets.digits("labels", side=16).values == 3
    assert sets.digits("depth", side=16).values == 0


def test_batches_and_what_is_held_out_come_with_their_condition():
    data = sets.digits("class", side=16, train=40)
    batch = next(iter(data.batches(8, 1, 3)))
    assert torch.equal(batch.x, data.parts["train"].x[batch.index])
    assert torch.equal(batch.c, data.labels["train"][batch.index])
    parts = list(data.held_out("train", 15))
    assert [part.size for part in parts] == [14, 13, 13]
    assert torch.equal(torch.cat([part.x for part in parts]), data.parts["train"].x)
    assert torch.cat([part.index for part in parts]).tolist() == list(range(40))


def test_fashion_mnist_is_framed_and_labelled(tmp_path):
    for name, n in (("train", 50), ("t10k", 12)):
        (tmp_path / f"{name}-images-idx3-ubyte").write_bytes(struct.pack(">BBBBIII", 0, 0, 8, 3, n, 28, 28) + images(n, n).numpy().tobytes())
        (tmp_path / f"{name}-labels-idx1-ubyte").write_bytes(struct.pack(">BBBBI", 0, 0, 8, 1, n) + bytes(i % 10 for i in range(n)))
    data = sets.fashion_mnist(tmp_path, "class")
    assert (data.parts["train"].size, data.parts["validation"].size) == (40, 10)
    x = data.parts["test"].x
    assert x.shape == (12, 1, 32, 32)
    assert torch.equal(x[:, 0, 2:30, 2:30], images(12, 12).float() / 127.5 - 1)
    assert (x[:, :, [0, 1, 30, 31]] == -1).all()
    assert data.labels["test"].tolist() == [i % 10 for i in range(12)]
    with pytest.raises(SystemExit, match="train-images-idx3-ubyte.*t10k-labels-idx1-ubyte"):
        sets.fashion_mnist(None)


def test_a_folder_stands_in(tmp_path):
    folder(tmp_path / "a", 6, height=40, width=40)
    folder(tmp_path / "b", 6, height=40, width=40)
    data = sets.folder(tmp_path, "class", side=16)
    assert sum(data.parts[part].size for part in data.parts) == 12 * 16
    assert data.values == 2
    assert data.labels is not None
    few = sets.folder(tmp_path, "class", side=16, train=40)
    assert few.parts["train"].size == 40
    assert set(few.labels["train"].tolist()) == {0, 1}, "not the first pictures alone"
    plain = sets.folder(tmp_path, "labels", side=16)
    assert plain.labels is None
    assert torch.equal(plain.parts["test"].c, sets.levels(plain.parts["test"].x))
    with pytest.raises(SystemExit, match="give data.root=FOLDER"):
        sets.folder(None)
    with pytest.raises(ValueError, match="sub-folder for each class"):
        sets.standin({"train": torch.zeros(1), "validation": torch.zeros(1), "test": torch.zeros(1)}, None, "class")
