"""One thread: two threads that share a busy core can be several times slower than one."""

import torch

torch.set_num_threads(1)
