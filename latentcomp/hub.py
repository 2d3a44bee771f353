"""The Hugging Face hub, through its own mixin: ``HubModel(model, posterior).push_to_hub("owner/name")`` and ``HubModel.from_pretrained("owner/name")``.

Needs ``huggingface-hub`` (``pip install 'latentcomp[engine]'``), which is imported here and nowhere else in this package; folders need none of it
(``pretrained``).
"""

from pathlib import Path
from typing import Any

from latentcomp.model import LatentVariableModel
from latentcomp.posteriors.posterior import Posterior
from latentcomp.pretrained import CONFIG, WEIGHTS, from_pretrained, save_pretrained

try:
    from huggingface_hub import ModelHubMixin, snapshot_download
except ImportError:
    raise ImportError("latentcomp.hub needs huggingface-hub: pip install 'latentcomp[engine]'") from None


class HubModel(ModelHubMixin, library_name="latentcomp", tags=["latentcomp", "discrete-latent-variables"]):
    """A model, and the posterior that was learned with it, with the hub's methods ``save_pretrained``, ``from_pretrained`` and ``push_to_hub``.

    Args:
        model: p(x, z).
        posterior: q(z|x), or None.
        about: what its author says.
    """

    def __init__(self, model: LatentVariableModel, posterior: Posterior | None = None, about: dict[str, Any] | None = None) -> None:
        self.model, self.posterior, self.about = model, posterior, about or {}

    def _save_pretrained(self, save_directory: Path) -> None:
        save_pretrained(save_directory, self.model, self.posterior, self.about)

    @classmethod
    def _from_pretrained(cls, *, model_id: str, revision: str | None, trusted: tuple[type, ...] = (), **keywords: Any) -> "HubModel":
        folder = Path(model_id)
        if not folder.is_dir():
            wanted = {key: keywords[key] for key in ("cache_dir", "force_download", "local_files_only", "token") if key in keywords}
            folder = Path(snapshot_download(model_id, revision=revision, allow_patterns=[CONFIG, WEIGHTS], **wanted))
        return cls(*from_pretrained(folder, trusted))
