"""This package as an MLflow model: ``mlflow.pyfunc.load_model("models:/NAME@champion").predict(pictures)``.

``pictures`` is a list, or a DataFrame with them in its first column. Each is a picture file's bytes,
its path, its base64 text or a ``data:`` address. The answer is a list with the text of each picture.

``load_model(..., model_config={...})`` takes ``base_model`` (folder or hub id, for a package without its base),
``device`` (auto, cpu, cuda), ``trust_remote_code``, ``read_paths`` (false: a server's clients cannot name files), and
``picture_seconds`` (60, of CPU time) and ``picture_gib`` (2, of memory), the limits of the process that opens pictures.
"""

import base64
import binascii
import hashlib
import logging
import re
import sys
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel

logger = logging.getLogger(__name__)

PACKAGE = Path(__file__).resolve().parent
LONGEST_PATH = 4096  # characters, Linux's PATH_MAX; a longer text is base64


class PageReaderModel(PythonModel):
    """Transcribes pages; see the module's docstring."""

    def load_context(self, context: Any) -> None:
        """Load the model.

        Raises:
            RefusalError: the base model is not the adapter's or not known, or remote code is not allowed.
        """
        options = context.model_config or {}
        reader, refusal = page_reader("reader"), page_reader("refusal")
        settings = reader.read_settings(PACKAGE)
        if settings["trust_remote_code"] and not options.get("trust_remote_code"):
            raise refusal.RefusalError(
                'this model brings its own Python code; read it, then add model_config={"trust_remote_code": True}'
            )
        self._read_paths = bool(options.get("read_paths", True))
        usual = page_reader("opening_process")
        self._opener = page_reader("picture_opener").PictureOpener(
            int(options.get("picture_seconds") or usual.SECONDS), float(options.get("picture_gib") or usual.GIB)
        )
        self._reader = reader.PageReader(
            PACKAGE,
            settings,
            page_reader("letter_height").letter_height,
            base_model=options.get("base_model") or None,
            device=options.get("device") or "auto",
        )

    def predict(self, context: Any, model_input: pandas.DataFrame, params: dict[str, Any] | None = None) -> list[str]:
        """Return the text of each picture.

        Raises:
            RefusalError: a value is not a picture, or opening it takes more than the limits allow.
        """
        return [self._read(value, f"picture {row}") for row, value in enumerate(model_input.iloc[:, 0])]

    def _read(self, value: Any, name: str) -> str:
        reading = self._reader.read(self._page(value, name))
        if reading.warning:
            logger.warning("%s: %s", name, reading.warning)
        return str(reading.text)

    def _page(self, value: Any, name: str) -> Any:
        if isinstance(value, str) and self._read_paths and _is_file(value):
            return self._opener.picture(Path(value).absolute(), name)
        return self._opener.picture(_content(value, name), name)


def page_reader(module: str) -> ModuleType:
    """Return a module of this package's ``page_reader``; other versions in this process keep their own."""
    name = f"page_reader_{hashlib.sha256(str(PACKAGE).encode()).hexdigest()[:16]}"
    if name not in sys.modules:
        spec = spec_from_file_location(f"{name}_script", PACKAGE / "inference.py")
        assert spec is not None and spec.loader is not None
        script = module_from_spec(spec)
        spec.loader.exec_module(script)
        script.add_page_reader(name)
    return import_module(f"{name}.{module}")


def _is_file(text: str) -> bool:
    return len(text) <= LONGEST_PATH and "\0" not in text and Path(text).is_file()


def _content(value: Any, name: str) -> bytes:
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    refusal = page_reader("refusal")
    if not isinstance(value, str):
        raise refusal.RefusalError(f"{name}: {type(value).__name__}, not bytes, a path or base64 text")
    try:
        return base64.b64decode(re.sub(r"^data:[^,]*,|\s", "", value), validate=True)
    except binascii.Error as error:
        raise refusal.RefusalError(f"{name}: neither a file here nor base64 text ({error})") from error


set_model(PageReaderModel())
