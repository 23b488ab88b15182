"""The lines of a model card that start vLLM with the package."""

from shlex import quote

from components.export.servable.serving_files import SERVED_FOLDER, Serving


def commands(serving: Serving, *, name: str, base: str, revision: str | None, whole_model: str) -> str:
    """Return shell commands that serve the package, from its unpacked folder.

    Args:
        serving: how vLLM serves it.
        name: the name that requests give.
        base: the base's folder or hub id, and its ``revision``.
        whole_model: the folder that is served if the adapter is not: the merged weights, or the package itself.
    """
    config = f" \\\n    --hf-config-path {SERVED_FOLDER}" if serving.own_config else ""
    if not serving.adapter:
        return f"vllm serve {whole_model} --served-model-name {quote(name)}{config}"
    if serving.lora_target_modules:
        config += f" \\\n    --lora-target-modules {' '.join(serving.lora_target_modules)}"
    at = f" --revision {quote(revision)}" if revision else ""
    adapter = f"--enable-lora --max-lora-rank {serving.max_lora_rank} --lora-modules {quote(name)}={SERVED_FOLDER}"
    return f"vllm serve {quote(base)}{at}{config} \\\n    {adapter}"
