"""What makes a package an MLflow model: ``MLmodel``, its environment and its input example.

They are written as MLflow 3.17 writes them, without the date and the random id that would make each zip another one.
"""

import base64
import importlib.metadata
import json
import platform
from pathlib import Path

import yaml

from components.export.package.package_layout import write_json
from components.shared.page_reader.opening_process import GIB, SECONDS

MODEL_CODE = "mlflow_model.py"
_ENVIRONMENT = "python_env.yaml"
_EXAMPLE, _SERVED_EXAMPLE = "input_example.json", "serving_input_example.json"
# mlflow_model.py imports these besides what requirements.txt names for inference.py.
_REQUIREMENTS = ("mlflow", "pandas")
_LIMITS = {"picture_seconds": SECONDS, "picture_gib": GIB}
_PICTURE, _TEXT = {"type": "any", "required": True}, {"type": "string", "required": True}


def write_mlflow_files(folder: Path, example: bytes | None) -> None:
    """Write the files into a package's folder; ``example`` is a picture file's content."""
    python = platform.python_version()
    flavor = {
        "config": {"base_model": "", "device": "auto", "trust_remote_code": False, "read_paths": True, **_LIMITS},
        "env": {"virtualenv": _ENVIRONMENT},
        "loader_module": "mlflow.pyfunc.model",
        "model_code_path": MODEL_CODE,
        "python_version": python,
    }
    signature = {"inputs": json.dumps([_PICTURE]), "outputs": json.dumps([_TEXT]), "params": None}
    model = {
        "flavors": {"python_function": flavor},
        "mlflow_version": importlib.metadata.version("mlflow"),
        "signature": signature,
    }
    if example is not None:
        pictures = [base64.b64encode(example).decode()]
        write_json(folder / _EXAMPLE, pictures)
        write_json(folder / _SERVED_EXAMPLE, {"inputs": pictures})
        model["saved_input_example_info"] = {
            "artifact_path": _EXAMPLE,
            "serving_input_path": _SERVED_EXAMPLE,
            "type": "json_object",
        }
    pins = [f"{name}=={importlib.metadata.version(name)}" for name in _REQUIREMENTS]
    environment = {
        "python": python,
        "build_dependencies": ["pip", "setuptools", "wheel"],
        "dependencies": ["-r requirements.txt", *pins],
    }
    for name, content in (("MLmodel", model), (_ENVIRONMENT, environment)):
        (folder / name).write_text(yaml.safe_dump(content, sort_keys=True), encoding="utf-8")
