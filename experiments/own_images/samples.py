"""Pictures of a second stage's prior, of the size that it learned or larger."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from experiments.own_images.given import Given, Size
from latentcomp.data.image_folder import ImageFolder
from latentcomp.data.views import View
from latentcomp.model import LatentVariableModel
from latentcomp.nn.grid import SiteDecoder
from latentcomp.noise import Noise
from latentcomp.priors import Autoregressive, context_of
from latentcomp.sampling.drawing import Drawing
from latentcomp.sampling.patchwork import patchwork
from latentcomp.sampling.tiled import decoded
from latentcomp.sampling.window import Cropped, Everywhere, WindowCondition, slide


class Samples:
    """Samples by their numbers: each is a function of (seed, its number), whatever else is drawn with it.

    Args:
        model: of the first stage, under the prior.
        given: what the prior is given.
        data: the pictures, for conditions that are made from pictures; asked for there alone.
        view: of the pictures that were learned.
        seed: of samples.
        drawing: temperature, top_k, top_p, guidance; nothing else knows of them.
    """

    def __init__(self, model: LatentVariableModel, given: Given, data: Callable[[], ImageFolder], view: View, seed: int, drawing: Drawing) -> None:
        self.model, self.given, self.data, self.view, self.seed, self.drawing = model, given, data, view, seed, drawing

    def __call__(self, first: int, number: int) -> Float[Tensor, "n C H W"]:
        """Samples number ``first`` and on, of the size that was learned."""
        return self.of(torch.arange(first, first + number))

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w) of the codes that were learned."""
        decoder = self.model.decoder
        if not isinstance(decoder, SiteDecoder):
            raise TypeError(f"{type(decoder).__name__} decodes no grids of codes: samples are made of first stages on pictures")
        return decoder.grid[0], decoder.grid[1]

    @property
    def _like(self) -> Tensor:
        return next(self.model.decoder.parameters())

    @property
    def size(self) -> Size:
        """Of a picture that was learned."""
        return self.view.crop, self.view.crop

    def grid_of(self, size: Size) -> tuple[int, int]:
        """The codes of a picture of this size.

        Raises:
            ValueError: it is smaller than what was learned, or does not end between codes.
        """
        f = self.size[0] // self.grid[0]
        if size[0] % f or size[1] % f or min(size) < self.size[0]:
            raise ValueError(
                f"a picture is at least {self.size[0]} x {self.size[1]} pixels, which were learned, in steps of {f}, a code; got {size[0]} x {size[1]}"
            )
        return size[0] // f, size[1] // f

    @torch.no_grad()
    def of(self, index: Int[Tensor, " n"], size: Size | None = None, stride: int | None = None) -> Float[Tensor, "n C H W"]:
        """Samples of these numbers.

        Args:
            index: their numbers.
            size: (H, W) in pixels; None for what was learned.
            stride: where they are larger, how many codes the window moves at once; None for a quarter of it, or half where the prior has an order of its own.

        Raises:
            SystemExit: they cannot be drawn so; says why.
        """
        try:
            grid = self.grid_of(size or self.size)
            index = index.to(self._like.device)
            noise = Noise(self.seed, -1, index)
            c = self.given.of(index, size or self.size, self.data)
            c = c.to(self._like.dtype) if c is not None and c.is_floating_point() else c
            z = self._learned(c, len(index), noise) if grid == self.grid else self._windowed(c, grid, noise, stride, len(index))
        except (TypeError, ValueError) as error:
            raise SystemExit(f"error: {error}") from error
        return self._decoded(z, grid)

    def _learned(self, c: Tensor | None, rows: int, noise: Noise) -> Int[Tensor, "n N"]:
        q = self.drawing(self.model.prior, c)
        return q.sample((), noise) if q.batch_shape else q.sample((rows,), noise)

    def _windowed(self, c: Tensor | None, grid: tuple[int, int], noise: Noise, stride: int | None, rows: int) -> Int[Tensor, "n N"]:
        prior, width = self.model.prior, self._width
        r = context_of(prior, c)
        write: Callable[..., Tensor] = slide if isinstance(prior, Autoregressive) else patchwork
        share = min(self.grid) // (4 if write is slide else 2)
        step = stride or max(width, share // width * width)
        return write(lambda r: self.drawing.given(prior, r), grid, self.grid, rows, self._where(r, grid), None, step, noise).flatten(1)

    @property
    def _width(self) -> int:
        """Of a code of the condition's map, in sites."""
        return 1 if self.given.stride is None else max(1, self.given.stride * self.grid[0] // self.size[0])

    def _where(self, r: Tensor | None, grid: tuple[int, int]) -> WindowCondition | None:
        if r is None:
            return None
        if self.given.stride is None:
            return Everywhere(r)
        pixels = self.size[0] // self.grid[0]
        return Cropped(r.view(len(r), *(side * pixels // self.given.stride for side in grid)))

    def _decoded(self, z: Int[Tensor, "n N"], grid: tuple[int, int]) -> Float[Tensor, "n C H W"]:
        """In tiles, where they are large."""
        model, decoder = self.model, self.model.decoder
        if grid == self.grid or not isinstance(decoder, SiteDecoder):
            return model.decode(model.codebook(z)).mean
        return decoded(lambda z, shape: model.likelihood(decoder.at(model.codebook(z), shape)).mean, z, grid)
