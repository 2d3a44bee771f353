"""What is fitted after training, by the same procedure for every learner: the second-stage prior, and the proposal of importance sampling.

A VQ model as everyone trains it has two stages: codes first, then an autoregressive prior on the codes of the training images. A fair comparison gives
every learner that second stage. And where log p(x) must be estimated, it gives every model a proposal of the same architecture and budget, so that no
learner is judged by how well its own posterior happens to cover.
"""

import copy
import itertools

import torch
from jaxtyping import Int
from torch import Tensor, nn

from latentcomp.data.split import Split
from latentcomp.evaluate.scores import code_nll
from latentcomp.model import LatentVariableModel, with_prior
from latentcomp.noise import Noise
from latentcomp.objectives import m_step_loss, sleep_loss
from latentcomp.posteriors.posterior import Posterior
from latentcomp.priors import Prior


def fit_prior(
    model: LatentVariableModel, posterior: Posterior, data: Split, prior: Prior, updates: int = 300, size: int = 128, rate: float = 1e-3, seed: int = 0
) -> LatentVariableModel:
    """The second stage: ``prior`` learns -log p(z) of the codes that the frozen posterior gives (at most 20,000) training images, eight draws of each.

    Of the priors passed on the way, the first included, the one with the best loss on codes of (at most 256) validation images is kept.
    It is moved to where the model lies, and takes the model's precision.

    Returns:
        The model under the fitted prior; the given model is left as it was.
    """
    codes, held_out = (_codes(model, posterior, x, seed + part) for part, x in enumerate((data.train[:20_000], data.validation[:256])))
    optimizer = torch.optim.Adam(_beside(model, prior).parameters(), rate, fused=True)
    best, kept = float("inf"), prior.state_dict()
    for update in range(updates + 1):
        if update % max(10, updates // 30) == 0 or update == updates:
            loss = float(code_nll(prior(), held_out, Noise(seed, -1, torch.arange(len(held_out), device=held_out.device))).mean())
            if loss < best:
                best, kept = loss, copy.deepcopy(prior.state_dict())
        rows = Noise(seed, update, torch.arange(size, device=codes.device)).uniform((), ()) * len(codes)
        z = codes[rows.long()]
        optimizer.zero_grad(set_to_none=True)
        m_step_loss(prior().log_prob(z)).backward()
        optimizer.step()
    prior.load_state_dict(kept)
    return with_prior(model, prior)


def _beside(model: LatentVariableModel, part: nn.Module) -> nn.Module:
    """The part, moved in place to the device and precision of the model, which a run may have put anywhere."""
    like = next(tensor for tensor in itertools.chain(model.parameters(), model.buffers()) if tensor.is_floating_point())
    return part.to(like.device, like.dtype)


@torch.no_grad()
def _codes(model: LatentVariableModel, posterior: Posterior, x: Tensor, seed: int, chunk: int = 1024) -> Int[Tensor, "n N"]:
    """Eight draws of the codes of each image."""
    rows = torch.arange(len(x), device=x.device).split(chunk)
    return torch.cat([posterior(model, x[row]).sample((8,), Noise(seed, 0, row)).flatten(0, 1) for row in rows])


def fit_proposal(model: LatentVariableModel, posterior: Posterior, updates: int = 1000, size: int = 128, rate: float = 3e-3, seed: int = 0) -> Posterior:
    """A proposal for the frozen model: ``posterior`` learns by maximum likelihood from dreams, of which no two are alike.

    -log q(z|x) of dreams (x, z) ~ p(x, z) is, but for a constant, the KL from p(z|x) to q(z|x), mean over the model's own images: the divergence that
    makes q cover every mode, as a proposal must. It asks for no posterior to imitate, so that every learner's model gets the same treatment.

    Args:
        model: p(x, z).
        posterior: learns; it is moved to where the model lies, and takes the model's precision.
        updates: how many, by Adam under a one-cycle schedule.
        size: B, dreams an update.
        rate: the highest of the learning rates.
        seed: of the dreams.

    Returns:
        The posterior, fitted; theta is bit-identical afterwards.

    Raises:
        ValueError: the likelihood is an unnormalised energy, from which nothing can be dreamt.
    """
    frozen = copy.deepcopy(model).requires_grad_(False)  # whose count of decoder evaluations is the model's no more
    optimizer = torch.optim.Adam(_beside(model, posterior).parameters(), rate, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=updates, pct_start=0.1)
    rows = torch.arange(size, device=next(model.decoder.parameters()).device)
    for update in range(updates):
        x, z = frozen.sample(size, noise=Noise(seed, update, rows))
        optimizer.zero_grad(set_to_none=True)
        sleep_loss(posterior(frozen, x).log_prob(z)).backward()
        optimizer.step()
        schedule.step()
    return posterior
