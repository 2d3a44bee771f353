"""The textbook loop: GFlowNet-EM's discrete VAE as one writes it down from the paper, with nothing shared between the 16 steps of a trajectory.

The state is one number for each pair of code and site, code-major, 1 where a site has that code. At each site image and state go through the whole network
again; it scores all 16 K actions, of which those of the site are kept. Gradients flow through all of it, through the decoder too. The layers are the same
as ours, in torch's default memory layout.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy, one_hot

from benchmarks.gflownet_em.sides import RATES, SITES, SLEEP_WEIGHT, Setting, Side

SIDE = 4  # the sites are a 4x4 grid
FLOOR = 1e-9

Choose = Callable[[Tensor, int], Tensor]  # probabilities (B, 16, K, all sites) of a step, and its site -> codes (B,)


class Rectified(nn.Module):
    """r + Conv1x1(ReLU(Conv3x3(r))), r = ReLU(x)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """The block's output."""
        r = x.relu()
        return r + self.narrow(self.wide(r).relu())


class Policy(nn.Module):
    """Images and states to logits of all actions, from scratch at each call."""

    def __init__(self, channels: int, codes: int) -> None:
        super().__init__()
        strided = [nn.Conv2d(1, channels, 4, 2, 1, bias=False), nn.ReLU(), nn.Conv2d(channels, channels, 4, 2, 1, bias=False)]
        strided += [nn.Conv2d(channels, channels, 3, 2, 1, bias=False), Rectified(channels), Rectified(channels)]
        self.image = nn.Sequential(*strided, nn.Flatten(), nn.Linear(channels * SITES, channels // 2))
        wide = [nn.Linear(codes * SITES, channels), nn.ReLU(), nn.Linear(channels, channels), nn.ReLU()]
        self.state = nn.Sequential(*wide, nn.Linear(channels, channels // 2))
        self.action = nn.Sequential(nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, codes * SITES))
        self.log_z = nn.Parameter(torch.ones(1))
        self.codes = codes

    def forward(self, x: Tensor, state: Tensor) -> Tensor:
        """Logits ``(B, 16 K)``."""
        return self.action(torch.cat([self.image(x), self.state(state)], 1))


class Decoder(nn.Module):
    """Dense states to the probabilities that pixels are on."""

    def __init__(self, channels: int, codes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(1, channels, 1, bias=False), Rectified(channels), Rectified(channels)]
        for kernel in (3, 4, 4):
            layers += [nn.ConvTranspose2d(channels, channels, kernel, 2, 1, bias=False), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Conv2d(channels, 1, 1), nn.Sigmoid())
        self.embedding = nn.Parameter(torch.randn(codes, 1))
        self.codes = codes

    def forward(self, state: Tensor) -> Tensor:
        """Probabilities ``(B, 1, 28, 28)``."""
        grids = state.view(-1, self.codes, 1, SIDE, SIDE)
        return self.layers((grids * self.embedding.view(1, self.codes, 1, 1, 1)).sum(1))


def rollout(policy: Policy, x: Tensor, choose: Choose) -> tuple[Tensor, Tensor]:
    """A dense state ``(B, 16 K)`` built site by site, and log q of its codes ``(B,)``."""
    state = x.new_zeros(len(x), policy.codes * SITES)
    log_q = x.new_zeros(len(x))
    for site in range(SITES):
        probabilities = policy(x, state.clone()).softmax(-1).view(-1, policy.codes, SITES)[:, :, site] + FLOOR
        probabilities = probabilities / probabilities.sum(-1, keepdim=True)
        z = choose(probabilities, site)
        state = state.scatter(1, (z * SITES + site).unsqueeze(-1), 1.0)
        log_q = log_q + probabilities.gather(1, z.unsqueeze(-1)).squeeze(-1).log()
    return state, log_q


def sampled(probabilities: Tensor, site: int) -> Tensor:
    """A draw."""
    return torch.multinomial(probabilities, 1).squeeze(-1)


def greedy(probabilities: Tensor, site: int) -> Tensor:
    """The most probable code."""
    return probabilities.argmax(-1)


def given(z: Tensor) -> Choose:
    """The codes ``(B, 16)``."""
    return lambda probabilities, site: z[:, site]


def dense(z: Tensor, codes: int) -> Tensor:
    """Codes ``(B, 16)`` as a dense state."""
    return one_hot(z, codes).transpose(1, 2).flatten(1)


def log_likelihood(decoder: Decoder, state: Tensor, x: Tensor) -> Tensor:
    """log p(x|z) ``(B,)``."""
    return -binary_cross_entropy(decoder(state), x, reduction="none").flatten(1).sum(1)


def e_loss(policy: Policy, decoder: Decoder, x: Tensor, choose: Choose = sampled) -> Tensor:
    """mean (log Z + log q / 16 - log p(x|z) / 16)^2."""
    state, log_q = rollout(policy, x, choose)
    return (policy.log_z + log_q / SITES - log_likelihood(decoder, state, x) / SITES).square().mean()


def sleep_loss(policy: Policy, x: Tensor, z: Tensor) -> Tensor:
    """-10 mean log q(z|x) / 16 of dreams."""
    return -SLEEP_WEIGHT * rollout(policy, x, given(z))[1].mean() / SITES


def m_loss(policy: Policy, decoder: Decoder, x: Tensor) -> Tensor:
    """The mean cross-entropy of a pixel, on greedy codes."""
    return binary_cross_entropy(decoder(rollout(policy, x, greedy)[0]), x)


class Textbook(Side):
    """The loop, and Adam on either side of it.

    Args:
        setting: the sizes.
        x: the images of the steps.
    """

    def __init__(self, setting: Setting, x: Tensor) -> None:
        super().__init__(setting, x)
        self.policy = Policy(setting.channels, setting.codes).to(setting.device)
        self.decoder = Decoder(setting.channels, setting.codes).to(setting.device)
        networks = [parameter for name, parameter in self.policy.named_parameters() if name != "log_z"]
        self._phi = torch.optim.Adam([{"params": networks}, {"params": [self.policy.log_z], "lr": RATES["log_z"]}], lr=RATES["network"])
        self._theta = torch.optim.Adam(self.decoder.parameters(), lr=RATES["network"])

    def _descend(self, loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def e_step(self) -> None:
        """Trajectory balance."""
        self._descend(e_loss(self.policy, self.decoder, self.x), self._phi)

    def sleep_step(self) -> None:
        """Dreams of the uniform prior."""
        z = torch.randint(self.setting.codes, (len(self.x), SITES), device=self.x.device)
        with torch.no_grad():
            x = torch.bernoulli(self.decoder(dense(z, self.setting.codes)))
        self._descend(sleep_loss(self.policy, x, z), self._phi)

    def m_step(self) -> None:
        """Greedy codes."""
        self._descend(m_loss(self.policy, self.decoder, self.x), self._theta)

    @torch.no_grad()
    def log_px(self, x: Tensor, samples: int) -> Tensor:
        """Each image repeated as often as there are samples."""
        estimates = []
        for image in x:
            repeated = image.expand(samples, *image.shape).contiguous()
            state, log_q = rollout(self.policy, repeated, sampled)
            log_w = log_likelihood(self.decoder, state, repeated) - SITES * math.log(self.setting.codes) - log_q
            estimates.append(log_w.logsumexp(0) - math.log(samples))
        return torch.stack(estimates)
