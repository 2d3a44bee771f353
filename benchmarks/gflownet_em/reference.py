"""The published side: the modules and functions of a user's own checkout of GFNOrg/GFlowNet-EM, which nothing here contains.

Its training script keeps its loop under ``__main__``, so the few lines that turn its ``sample`` and ``sleep_step`` into parameter updates are written here
after it. Where torchvision or tqdm is missing, which the script imports and only its own loop uses, an empty module stands for it.
"""

import importlib
import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy

from benchmarks.gflownet_em.sides import RATES, SITES, SLEEP_WEIGHT, Setting, Side

FOLDER = Path("discrete_vae") / "gfn"


def load(checkout: str | Path) -> tuple[ModuleType, ModuleType]:
    """The checkout's networks and its training script, as modules.

    Raises:
        FileNotFoundError: the folder holds no such files.
    """
    folder = Path(checkout) / FOLDER
    files = {name: folder / f"{name}.py" for name in ("networks", "train_gfn")}
    if missing := [str(path) for path in files.values() if not path.is_file()]:
        raise FileNotFoundError(
            f"{checkout} is no checkout of GFNOrg/GFlowNet-EM, it lacks {', '.join(missing)}: git clone it, and give the folder of the clone"
        )
    for name in ("torchvision", "tqdm"):
        if name not in sys.modules and importlib.util.find_spec(name) is None:
            sys.modules[name] = ModuleType(name)
    before = sys.modules.get("networks")
    try:
        sys.modules["networks"] = _module("networks", files["networks"])
        return sys.modules["networks"], _module("published_train_gfn", files["train_gfn"])
    finally:
        sys.modules.pop("networks")
        if before is not None:
            sys.modules["networks"] = before


def _module(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Published(Side):
    """The checkout's networks and sampling functions, its losses and optimisers.

    Args:
        setting: the sizes, and the checkout.
        x: the images of the steps.
    """

    def __init__(self, setting: Setting, x: Tensor) -> None:
        super().__init__(setting, x)
        if setting.checkout is None:
            raise ValueError("the published side needs a checkout of GFNOrg/GFlowNet-EM: give --reference PATH")
        networks, self.script = load(setting.checkout)
        self.gfn = networks.GFlowNet(channels=setting.channels, dictionary_size=setting.codes).to(setting.device)
        self.dictionary = networks.LatentDictionary(dictionary_size=setting.codes).to(setting.device)
        self.decoder = networks.Decoder(channels=setting.channels).to(setting.device)
        phi = [parameter for name, parameter in self.gfn.named_parameters() if name != "logZ"]
        theta = [*self.decoder.parameters(), *self.dictionary.parameters()]
        self._phi = torch.optim.Adam([{"params": phi}, {"params": [self.gfn.logZ], "lr": RATES["log_z"]}], lr=RATES["network"])
        self._theta = torch.optim.Adam(theta, lr=RATES["network"])

    @classmethod
    def imports(cls, setting: Setting) -> None:
        """The checkout, and what it imports itself."""
        if setting.checkout is not None:
            load(setting.checkout)

    def _descend(self, loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def _decoded(self, state: Tensor) -> Tensor:
        return self.decoder(self.dictionary(state.view(len(state), self.setting.codes, 1, 4, 4)))

    def _sample(self, x: Tensor, greedy: bool = False) -> Any:
        return self.script.sample(self.gfn, x, p=-1 if greedy else 1, rand_prob=0)

    def _log_likelihood(self, state: Tensor, x: Tensor) -> Tensor:
        return -binary_cross_entropy(self._decoded(state), x, reduction="none").flatten(1).sum(1)

    def e_step(self) -> None:
        """As published: a gradient is computed for the decoder too, and not used."""
        state, log_q = self._sample(self.x)
        reward = self._log_likelihood(state, self.x) / SITES
        self._descend((self.gfn.logZ + log_q.view(-1) / SITES - reward).square().mean(), self._phi)

    def sleep_step(self) -> None:
        """Dreams of the uniform prior, scored anew at each site."""
        log_q, _ = self.script.sleep_step(self.gfn, self.decoder, self.dictionary, batch_size=self.setting.batch)
        self._descend(-SLEEP_WEIGHT * log_q.mean() / SITES, self._phi)

    def m_step(self) -> None:
        """Greedy codes, sampled with a graph that nothing uses."""
        state, _ = self._sample(self.x, greedy=True)
        self._descend(binary_cross_entropy(self._decoded(state), self.x), self._theta)

    @torch.no_grad()
    def log_px(self, x: Tensor, samples: int) -> Tensor:
        """Each image repeated as often as there are samples."""
        estimates = []
        for image in x:
            repeated = torch.stack([image] * samples)
            state, log_q = self._sample(repeated)
            log_w = self._log_likelihood(state, repeated) - SITES * math.log(self.setting.codes) - log_q.view(-1)
            estimates.append(log_w.logsumexp(0) - math.log(samples))
        return torch.stack(estimates)
