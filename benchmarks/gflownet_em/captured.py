"""Our E-step on a GPU as one CUDA graph: some hundred small kernels, replayed by one call from the host.

Everything but the loop is the library's: the same learner makes the loss, the same optimiser (with ``capturable``) descends it. ``fit`` itself looks at
each loss on the host, which a graph cannot. A graph repeats its kernels with the same numbers of seed and step, so the noise is kept fresh by the other
part of its key: the positions of the data, a tensor that changes before each replay.
"""

import torch

from benchmarks.gflownet_em.ours import Ours, optimizer
from latentcomp.batch import Batch

WARM_UP = 3


class Captured:
    """The E-step of our side, captured.

    Args:
        ours: the networks and the learner, on a CUDA device.

    Raises:
        ValueError: the device has no graphs.
    """

    def __init__(self, ours: Ours) -> None:
        if ours.x.device.type != "cuda":
            raise ValueError(f"only a CUDA device captures graphs, the networks lie on {ours.x.device}: time the eager step there")
        self.ours, self.batch = ours, Batch(ours.x, index=torch.arange(len(ours.x), device=ours.x.device))
        self.optimizer = optimizer(ours.model, ours.expectation, capturable=True)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                self._eager()
        torch.cuda.current_stream().wait_stream(side)
        self.optimizer.zero_grad(set_to_none=True)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self._eager()

    def _eager(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        (loss,) = self.ours.expectation.losses(self.ours.model, self.batch)
        loss.value.backward(inputs=loss.learns)
        self.optimizer.step()

    def step(self) -> None:
        """One update on the same images, with noise of its own."""
        self.batch.positions.add_(len(self.ours.x))
        self.graph.replay()
