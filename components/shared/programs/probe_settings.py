"""Whom the benchmark compares, and the settings of its probes; the benchmark, its report and the probe share them."""

from typing import Literal

from pydantic import Field

from components.shared.programs.step_config import StepConfig

Contender = Literal["standard", "unsloth", "stock"]
"""A trainer under comparison."""


class ProbeSettings(StepConfig):
    """What is measured with a trained model: reading, generation speed, and how much fits into the memory."""

    cer_pages: int = Field(8, ge=0)
    """held-out pages that the trained adapter transcribes for its CER; 0: none"""
    max_new_tokens: int = Field(512, ge=1)
    """longest transcription of such a page, in tokens"""
    generation_tokens: int = Field(64, ge=0)
    """tokens generated per page, exactly, to measure the generation speed; 0: not measured"""
    generation_batch_size: int = Field(8, ge=1)
    """pages per batch when reading and generating"""
    generation_repeats: int = Field(3, ge=1)
    """how often the generation speed is measured, after one warm-up"""
    memory_cap_gib: float | None = Field(None, gt=0)
    """GiB of device memory within which the largest batch and the longest context are searched; without it they are
    not searched. It limits PyTorch's allocator; the CUDA context takes about half a GiB more"""
    largest_batch_limit: int = Field(1024, ge=1)
    """where the search for the largest batch ends, in pages"""
    longest_context_limit: int = Field(131072, ge=64)
    """where the search for the longest context ends, in tokens"""

    def probe_settings(self) -> dict[str, int | float | None]:
        """Return these settings alone, by name."""
        return {name: getattr(self, name) for name in ProbeSettings.model_fields}
