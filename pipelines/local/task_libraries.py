"""Imports what most tasks need; Python's fork server imports this module once for all tasks of a local run.

What cannot be imported is left to the tasks: the one that needs it says so.
"""

import contextlib
import importlib

for _library in ("kfp.dsl.executor", "mlflow", "transformers", "transformers.trainer", "peft"):
    with contextlib.suppress(Exception):
        importlib.import_module(_library)
