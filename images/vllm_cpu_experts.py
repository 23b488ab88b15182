"""Lets vLLM 0.32 serve a LoRA adapter of a mixture-of-experts model on a CPU; images/install-vllm.sh installs it.

With --enable-lora, vLLM runs every mixture of experts with Triton's kernels, which could adapt the experts. A CPU has
none, and the first request ends the engine. Our adapters leave the routed experts alone (--lora-target-modules), so the
kernels that a CPU runs without LoRA give the same result. A plugin, because vLLM starts several processes.
"""

from dataclasses import replace


def register() -> None:
    """Choose the experts' kernels as if there were no adapter; vLLM calls this in each of its processes."""
    from vllm.model_executor.layers.fused_moe import unquantized_fused_moe_method as method
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return
    choose = method.select_unquantized_moe_backend

    def without_adapters(moe_config, *arguments, **options):
        return choose(replace(moe_config, is_lora_enabled=False), *arguments, **options)

    method.select_unquantized_moe_backend = without_adapters
