"""More samples of a finished second stage: ``python -m experiments.own_images.sample second=FOLDER number=64 size=512x768 top_k=100 out=FOLDER``.

    second       the folder of the second stage's run
    first        that of its first stage's, where it lies elsewhere now
    number       how many samples there are to be in the end: those that are there already stay
    size         HEIGHTxWIDTH in pixels, at least the size that was learned; by default that
    seed         sample i is a function of (seed, i), whatever the batch
    label        the class of all of them; by default the classes take turns
    temperature, top_k, top_p, guidance   how codes are drawn; by default as the second stage's sampling.* says
    stride       how many codes the window moves at once over a larger picture; by default a quarter of the window. 1: a window for each code, as published
    batch        how many at once
    out          the folder to write to; by default samples/ in the second stage's
    accelerator  auto: the GPU, where there is one; or cpu

It writes NUMBER.png, samples.png, a grid of the first of them, and samples.json, what they were drawn with. The same command goes on where it was stopped.
"""

import json
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments import settings
from experiments.own_images.finished import Finished, check, loaded
from experiments.own_images.given import Classes, Size
from experiments.own_images.samples import Samples
from experiments.results import differences, write_json
from experiments.watching.grids import save, tiles
from latentcomp.sampling.drawing import Drawing

SHOWN = 36  # samples of the grid
HEADER = "samples.json"


@dataclass
class Request:
    """What the command line asks for."""

    second: str = MISSING
    first: str | None = None
    number: int = 36
    size: str | None = None
    seed: int = 0
    label: str | None = None
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    guidance: float = 1.0
    stride: int | None = None
    batch: int = 16
    out: str | None = None
    accelerator: str = "auto"


def parsed(arguments: list[str]) -> tuple[Any, Finished]:
    """The request, what it leaves open being as the second stage was told, and that stage.

    Raises:
        UnknownName: an option that does not exist; lists those that do.
        SystemExit: something is missing or of a wrong kind, or the stage cannot be loaded.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        raise SystemExit(__doc__)
    known = [field.name for field in fields(Request)]
    for argument in arguments:
        key, separator, _ = argument.partition("=")
        if not separator or key not in known:
            raise settings.unknown("option", key, known) if separator else SystemExit(f"error: {argument!r} is no option: write key=value")
    given = OmegaConf.from_cli(arguments)
    if "second" not in given:
        raise SystemExit("error: give second=FOLDER, the folder of a finished second stage's run")
    stage = loaded(given.second, given.get("first"))
    try:
        request = OmegaConf.merge(OmegaConf.structured(Request), stage.config.sampling, given)
    except OmegaConfBaseException as error:
        raise SystemExit(f"error: {str(error).splitlines()[0]}") from error
    if request.number < 1 or request.batch < 1:
        raise SystemExit(f"error: at least one sample is drawn, and at once; got number={request.number}, batch={request.batch}")
    return request, stage


def size(text: str | None) -> Size | None:
    """(H, W) of ``512x768``.

    Raises:
        SystemExit: it does not say so.
    """
    if text is None:
        return None
    sides = text.lower().split("x")
    if len(sides) != 2 or not all(side.isdigit() and int(side) for side in sides):
        raise SystemExit(f"error: size={text} is no HEIGHTxWIDTH in pixels, such as 512x768")
    return int(sides[0]), int(sides[1])


def device(accelerator: str) -> torch.device:
    """Where to compute.

    Raises:
        SystemExit: there is no such thing here.
    """
    if accelerator not in ("auto", "cpu", "gpu"):
        raise SystemExit(f"error: accelerator={accelerator}: it is auto, cpu or gpu")
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if accelerator == "gpu" and found is None:
        raise SystemExit("error: accelerator=gpu: torch finds none here; leave accelerator=auto")
    return torch.device("cpu") if found is None or accelerator == "cpu" else found


def header(request: Any, stage: Finished) -> dict[str, Any]:
    """What samples were drawn with, all of which must be the same for more of them."""
    asked = {key: request[key] for key in ("seed", "label", "stride", *Drawing._fields)}
    height, width = size(request.size) or [stage.first.config.data.view.crop] * 2
    return asked | {"size": f"{height}x{width}", "weights": stage.weights, "weights_of_first": stage.config.weights_of_first}


def begun(out: Path, about: dict[str, Any]) -> None:
    """Makes the folder, or sees that its samples are of this kind.

    Raises:
        SystemExit: it holds others; names what differs.
    """
    if not (out / HEADER).is_file() or not file(out, 0).is_file():
        write_json(out / HEADER, about)
    elif other := differences(json.loads((out / HEADER).read_text()), about):
        raise SystemExit(f"error: {out} holds samples that were drawn otherwise: {'; '.join(other)}. Give out=FOLDER, another one; nothing in it was changed")


def drawn(samples: Samples, request: Any, out: Path) -> int:
    """Draws those that are not there yet; how many these were."""
    missing = [i for i in range(request.number) if not file(out, i).is_file()]
    for start in range(0, len(missing), request.batch):
        index = torch.tensor(missing[start : start + request.batch])
        for i, image in zip(index.tolist(), samples.view.shown(samples.of(index, size(request.size), request.stride)), strict=True):
            save(image, file(out, i))
    return len(missing)


def file(out: Path, i: int) -> Path:
    """Of a sample."""
    return out / f"{i:06d}.png"


def grid(out: Path, number: int) -> None:
    """Draws the first of them side by side."""
    import numpy as np
    from PIL import Image

    pixels = [torch.from_numpy(np.array(Image.open(file(out, i)).convert("RGB"))) for i in range(min(number, SHOWN))]
    images = torch.stack(pixels).movedim(-1, 1) / 255
    save(tiles(images, min(len(images), 6), enlarge=max(1, 96 // images.shape[-1])), out / "samples.png")


def sample(arguments: list[str]) -> Path:
    """Draws, writes, and says where."""
    request, stage = parsed(arguments)
    drawing = Drawing(request.temperature, request.top_k, request.top_p, request.guidance)
    check(_with(stage.config, drawing), stage.model, stage.given)
    samples = stage.samples(drawing, request.seed)
    if request.label is not None:
        samples.given = _labelled(stage, request.label)
    stage.model.to(device(request.accelerator))
    out = Path(request.out or Path(request.second) / "samples")
    begun(out, header(request, stage))
    new = drawn(samples, request, out)
    grid(out, request.number)
    print(f"{request.number} samples, {new} of them new, and samples.png are in {out}")
    return out


def _with(config: DictConfig, drawing: Drawing) -> DictConfig:
    other = config.copy()
    other.sampling = drawing._asdict()
    return other


def _labelled(stage: Finished, label: str) -> Classes:
    if not isinstance(stage.given, Classes):
        raise SystemExit(f"error: label={label}: this prior is given no class; it learned with condition={type(stage.given).__name__.lower()}")
    try:
        return stage.given.called(label)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    sample(sys.argv[1:])
