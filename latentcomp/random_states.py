"""The generators of Python, numpy and torch, as part of a checkpoint.

This package's own noise needs none of them (``noise``). What a user's networks and data draw from them, such as dropout and augmentation, goes on in a
resumed run where it stopped.
"""

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latentcomp import processes


class RandomStates:
    """All of them, each process its own."""

    def state_dict(self) -> dict[str, Any]:
        """Plain data. Every process of the run must ask for it, since what each has is put together."""
        states = {"torch": torch.get_rng_state(), "python": _python(), "numpy": _numpy()}
        accelerator = _accelerator()
        if accelerator is not None:
            states["device"] = accelerator.get_rng_state()
        if processes.count() > 1:
            states = {key: value.to(processes.device()) for key, value in states.items()}
        rows = processes.gathered({key: value.unsqueeze(0) for key, value in states.items()})
        return {key: value.cpu() for key, value in rows.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores them; in a run of more processes than wrote them some begin alike."""
        own = {key: rows[processes.rank() % len(rows)].clone() for key, rows in state.items()}  # torch reads from the beginning of the storage
        torch.set_rng_state(own["torch"])
        numbers = own["python"].tolist()
        gauss = None if numbers[-1] == 0 else float(own["python"][-2:-1].view(torch.float64))
        random.setstate((numbers[0], tuple(numbers[1:-2]), gauss))
        keys, (position, has_gauss) = own["numpy"][:-3].numpy().astype(np.uint32), own["numpy"][-3:-1].tolist()
        np.random.set_state(("MT19937", keys, position, has_gauss, float(own["numpy"][-1:].view(torch.float64))))
        accelerator = _accelerator()
        if accelerator is not None and "device" in own:
            accelerator.set_rng_state(own["device"])


def _accelerator() -> Any:
    """The module of the accelerator that this process uses, or None: to ask another for its state would start it."""
    device = torch.accelerator.current_accelerator(check_available=True)
    module = None if device is None else torch.get_device_module(device)
    return module if module is not None and getattr(module, "is_initialized", lambda: True)() else None


def _python() -> Tensor:
    """Version, the words of the Mersenne twister, the second number of a normal pair bit for bit, and whether there is one."""
    version, words, gauss = random.getstate()
    return torch.cat([torch.tensor([version, *words]), _bits(gauss or 0.0), torch.tensor([int(gauss is not None)])])


def _numpy() -> Tensor:
    state: Any = np.random.get_state(legacy=True)
    _, keys, position, has_gauss, gauss = state
    return torch.cat([torch.from_numpy(keys.astype(np.int64)), torch.tensor([position, has_gauss]), _bits(gauss)])


def _bits(number: float) -> Tensor:
    return torch.tensor([number], dtype=torch.float64).view(torch.int64)
