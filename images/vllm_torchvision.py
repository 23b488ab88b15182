"""Lets ``import torchvision`` work beside torch's CPU build; images/install-vllm.sh puts it into vLLM's environment.

The compiled operators of the package index's torchvision belong to torch's CUDA build and do not load here. vLLM's
processors do not use them, but the package's import looks two of them up: they are declared, without a function behind
them, when torchvision is imported. A .pth file imports this module when a Python starts, as vLLM starts several.
"""

import importlib.abc
import sys

_BOXES = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


class _DeclareFirst(importlib.abc.MetaPathFinder):
    def find_spec(self, fullname, path=None, target=None):
        if fullname == "torchvision":
            sys.meta_path.remove(self)
            import torch

            for name in ("nms", "qnms"):
                torch.library.define(f"torchvision::{name}", _BOXES)
        return None


sys.meta_path.insert(0, _DeclareFirst())
