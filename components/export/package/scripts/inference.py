"""Transcribe pages with the model in this folder; needs only the packages in requirements.txt.

python inference.py page.png|scan.pdf|FOLDER ... [--jsonl] [--device auto|cpu|cuda] [--max_new_tokens N]
"""

import sys

if __name__ == "__main__" and not sys.flags.safe_path:
    del sys.path[0]  # this folder: a json.py in it must not replace Python's json module

import os
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

# OpenMP's waiting threads spin by default, which is slow on a busy machine. Read when PyTorch loads, so set before.
if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"} & os.environ.keys():
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"

PACKAGE = Path(__file__).resolve().parent


def add_page_reader(name: str = "page_reader") -> None:
    """Make the folder ``page_reader`` importable as ``name``, and nothing else of this package's folder."""
    folder = PACKAGE / "page_reader"
    spec = spec_from_file_location(name, folder / "__init__.py", submodule_search_locations=[str(folder)])
    assert spec is not None and spec.loader is not None
    sys.modules[name] = module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])


if __name__ == "__main__":
    sys.dont_write_bytecode = True  # nothing is added to the package, whose lineage names every file
    add_page_reader()
    letter_height = import_module("page_reader.letter_height").letter_height
    sys.exit(import_module("page_reader.program").main(PACKAGE, letter_height))
