"""A whole model's weights after full fine-tuning, read tensor by tensor before they are packed."""

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from components.shared.errors import UserError


def check_model_weights(folder: Path) -> None:
    """Read every tensor in ``folder``, one at a time.

    Raises:
        UserError: a file is truncated or corrupt, or a tensor holds NaN or infinite values.
    """
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, "pt") as stored:
                bad = [name for name in stored.keys() if not torch.isfinite(stored.get_tensor(name)).all()]  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise UserError(
                f"the model's weights cannot be read: the file is truncated or corrupt ({error})",
                where=str(path),
                mend="copy it again, or train again",
            ) from error
        if bad:
            raise UserError(
                f"{len(bad)} weights hold NaN or infinite values, first {bad[0]}",
                where=str(path),
                mend="train again with a lower learning_rate or max_grad_norm, or take an earlier checkpoint",
            )
