"""The command and the environment of a vLLM server that this service starts."""

import os
from collections.abc import Mapping
from pathlib import Path

from components.serve.config import ServeConfig
from components.serve.vllm.prompts import WHOLE_PROMPT_TEMPLATE
from components.shared.errors import UserError
from components.shared.models.base_models import base_model_location
from components.shared.models.model_loading import model_type_of
from components.shared.vllm.served_families import SERVED_FAMILIES
from components.shared.vllm.server_process import server_command

NO_REPEAT_PROCESSOR = "vllm.model_executor.models.deepseek_ocr:NGramPerReqLogitsProcessor"
"""DeepSeek's rule against loops; it looks at tokens alone, so it serves every model."""
_OURS = {
    **dict.fromkeys(("--model", "--served-model-name", "--revision"), "model, base_model and revision name the base"),
    **dict.fromkeys(("--host", "--port", "--uds", "--api-key", "--root-path"), "the service chooses the address"),
    "--config": "a file could hold what the service sets",
    **dict.fromkeys(("--ssl-keyfile", "--ssl-certfile"), "the server listens on loopback, for the service alone"),
    **dict.fromkeys(
        ("--enable-log-requests", "--enable-log-outputs", "--log-error-stack"), "nothing of a page may be logged"
    ),
    **dict.fromkeys(
        ("--chat-template", "--chat-template-content-format", "--trust-request-chat-template", "--logits-processors"),
        "the service makes the prompts, and no_repeat_ngram_size has the rule against loops",
    ),
}
_DEFAULTS = {"--max-lora-rank": "64", "--max-loras": "4"}
_NOT_PASSED_ON = ("DEEPSYNTH_", "VLLM_LOGGING_", "VLLM_DEBUG_", "VLLM_SERVER_DEV_MODE", "VLLM_API_KEY")


def command_of(config: ServeConfig, base_name: str, port: int, scratch: Path, with_rule: bool) -> list[str]:
    """Return the command; the chat template is written into ``scratch``.

    Args:
        with_rule: a version has a rule against repetitions, whatever ``config`` says.

    Raises:
        UserError: there is no such interpreter or base, or ``vllm_arguments`` has an argument that the service sets.
    """
    assert config.vllm_python is not None
    python = Path(config.vllm_python).expanduser().absolute()  # not resolved: a virtual environment's is a link
    if not os.access(python, os.X_OK) or python.is_dir():
        raise UserError(
            "no program", where=f"vllm_python {config.vllm_python}", mend="name bin/python of vLLM's folder"
        )
    given = [argument.partition("=")[0].replace("_", "-") for argument in config.vllm_arguments]
    for argument in given:
        meant = [ours for ours in _OURS if argument.startswith("--") and ours.startswith(argument)]  # or its beginning
        if meant:
            raise UserError(
                f"{argument} cannot be given: {_OURS[meant[0]]}", where="vllm_arguments", mend="leave it out"
            )
    location = base_model_location(config.base_model or config.model)
    template = scratch / "whole_prompt.jinja"
    template.write_text(WHOLE_PROMPT_TEMPLATE, encoding="utf-8")
    model = str(Path(location).absolute()) if Path(location).is_dir() else location
    command = [*server_command(python, model, port), "--served-model-name", base_name]
    command += ["--revision", config.revision] if config.revision else []
    command += ["--trust-remote-code"] if config.trust_remote_code else []
    command += ["--chat-template", str(template), "--chat-template-content-format", "openai"]
    command += ["--max-num-seqs", str(config.max_batch_size)] if "--max-num-seqs" not in given else []
    command += ["--limit-mm-per-prompt", '{"image": 1}'] if "--limit-mm-per-prompt" not in given else []
    command += ["--disable-uvicorn-access-log"]
    if _takes_adapters(config):
        command += ["--enable-lora"]
        for argument, value in _DEFAULTS.items():
            command += [argument, value] if argument not in given else []
    if with_rule or config.no_repeat_ngram_size is not None:
        command += ["--logits-processors", NO_REPEAT_PROCESSOR]
    return command + config.vllm_arguments


def _takes_adapters(config: ServeConfig) -> bool:
    """Return False for a class of vLLM that takes no adapter: with ``--enable-lora`` it does not start."""
    model_type = model_type_of(config.base_model or config.model, config.revision, config.trust_remote_code)
    family = SERVED_FAMILIES.get(model_type)
    return family is None or family.adapted is not None


def environment_of(token: str, ours: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the server's environment: this one without the service's tokens, and with what adapters need."""
    kept = {name: value for name, value in ours.items() if not name.startswith(_NOT_PASSED_ON)}
    return kept | {
        "VLLM_API_KEY": token,  # not an argument: every user of the machine sees those
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_COLOR": "0",
        "PYTHONUNBUFFERED": "1",
    }
