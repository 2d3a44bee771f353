"""What priors see: the codes of the pictures, of memory and of folders, and of their conditions."""

import torch

from experiments.taming import sets
from experiments.taming.coded import Coded, CodedBatches, Coder, Encoding
from experiments.taming.priors import Sites
from experiments.taming.stages import Maps
from latentcomp.conditions import Labels
from latentcomp.data.views import View
from latentcomp.engine import Engine
from tests.experiments.taming.test_samples import first_stage
from tests.pictures import draw

FIRST = first_stage()


def codes(x: torch.Tensor) -> torch.Tensor:
    return FIRST.learner.posterior(FIRST.model, x).mode


def test_codes_in_memory_are_those_of_the_pictures():
    data = sets.digits("class", side=8, train=40)
    coded = Coded(data, Coder(FIRST, Labels(10), Engine(None)))
    assert coded.sites((2, 2), 10) == Sites((2, 2), 5, 1, 10)
    batches = coded.batches(8, 12, 3)
    assert isinstance(batches, CodedBatches)
    seen = list(batches)
    assert len(seen) == 12
    for batch in seen:
        assert torch.equal(batch.z, codes(data.parts["train"].x[batch.index]))
        assert torch.equal(batch.c, data.labels["train"][batch.index].unsqueeze(1))
    assert sorted(torch.cat([batch.index for batch in seen[:5]]).tolist()) == list(range(40)), "an epoch sees each picture once"
    rest = list(batches.after(7))
    assert all(torch.equal(a.z, b.z) for a, b in zip(rest, seen[7:], strict=True))


def test_pictures_of_a_folder_are_cut_anew_and_encoded_as_they_come(tmp_path):
    for i in range(8):
        draw(tmp_path / "imagenet" / f"{i}.png", i)
    data = sets.own(tmp_path, "imagenet", "ImageNet", view=View(crop=8, resize=12, channels=1))
    coded = Coded(data, Coder(FIRST, None, Engine(None)), most=1)
    assert coded.sites((2, 2), 0) == Sites((2, 2), 5)
    batches = coded.batches(2, 6, 0)
    assert isinstance(batches, Encoding)
    pictures = list(data.batches(2, 6, 0))
    assert all(torch.equal(batch.z, codes(picture.x)) for batch, picture in zip(batches, pictures, strict=True))
    assert all(torch.equal(batch.z, codes(picture.x)) for batch, picture in zip(batches.after(4), pictures[4:], strict=True))
    assert len(coded.held_out("train")) == 1
    parts = [list(batches.share(rank, 2)) for rank in (0, 1)]
    assert all(torch.equal(torch.cat([a.z, b.z]), batch.z) for a, b, batch in zip(*parts, batches, strict=True)), "each process encodes its own rows"


def test_maps_stand_in_the_place_of_pictures():
    data = sets.digits("labels", side=8, train=40)
    maps, pictures = Maps(data.batches(8, 4, 0)), list(data.batches(8, 4, 0))
    assert all(torch.equal(batch.x, picture.c) for batch, picture in zip(maps, pictures, strict=True))
    assert torch.equal(next(iter(maps.after(2))).x, pictures[2].c)
    parts = [list(maps.share(rank, 2)) for rank in (0, 1)]
    assert all(torch.equal(torch.cat([a.x, b.x]), picture.c) for a, b, picture in zip(*parts, pictures, strict=True))
