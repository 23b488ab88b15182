"""Checks of safetensors files, tensor by tensor: files are complete, and all values are finite."""

from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from components.shared.errors import UserError

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def check_weight_files(files: Iterable[Path]) -> None:
    """Read every tensor of ``files``, one at a time.

    Raises:
        UserError: a file is truncated or corrupt, or a tensor holds NaN or infinite values; names file and tensor.
    """
    for path in files:
        try:
            with safe_open(path, "pt") as stored:
                names = list(stored.keys())
                bad = [name for name in names if not is_finite(stored.get_tensor(name))]
        except (OSError, SafetensorError) as error:
            raise UserError(
                f"the weights cannot be read: the file is truncated or corrupt ({error})",
                where=str(path),
                mend="copy it again, or train again",
            ) from error
        if bad:
            raise not_finite(bad, len(names), str(path))


def refuse_pickled_weights(folder: Path) -> None:
    """Reject a model folder whose weights exist only as pickles: loading a pickle can run code.

    Raises:
        UserError: the folder has pickles and no safetensors.
    """
    pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
    if pickles and not any(folder.glob("*.safetensors")):
        raise UserError(
            f"the weights are pickles ({', '.join(pickles[:3])}), which can run code when they are loaded",
            where=str(folder),
            mend="convert them to safetensors (save_pretrained of transformers) on a machine that may run such code",
        )


def is_finite(weight: torch.Tensor) -> bool:
    """Return True if no value is NaN or infinite."""
    return bool(torch.isfinite(weight).all())


def not_finite(bad: list[str], weights: int, where: str) -> UserError:
    """Return the error for the weights named in ``bad``; ``weights`` is the number of all weights."""
    return UserError(
        f"{len(bad)} of {weights} weights hold NaN or infinite values, first {min(bad)}",
        where=where,
        mend="train again with a lower learning_rate or max_grad_norm, or take an earlier checkpoint",
    )
