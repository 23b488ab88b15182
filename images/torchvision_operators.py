"""Lets ``import torchvision`` work beside torch's CPU build: in the CPU image, and in vLLM's environment for tests.

The compiled operators of the package index's torchvision belong to torch's CUDA build and do not load here. Processors
do not use them, but the package's import looks two of them up: those that did not load are declared, without a function
behind them. A .pth file imports this module when a Python starts; torch is imported only when torchvision is.
"""

import importlib.abc
import sys

_AFTER_THE_OPERATORS = "torchvision._meta_registrations"
_BOXES = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


class _DeclareMissing(importlib.abc.MetaPathFinder):
    def find_spec(self, fullname, path=None, target=None):
        if fullname == _AFTER_THE_OPERATORS:
            sys.meta_path.remove(self)
            import torch

            for name in ("nms", "qnms"):
                if not hasattr(torch.ops.torchvision, name):
                    torch.library.define(f"torchvision::{name}", _BOXES)
        return None


sys.meta_path.insert(0, _DeclareMissing())
