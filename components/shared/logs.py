"""Log lines: ours at INFO, the libraries' at WARNING, on standard error."""

import logging
import os
import warnings


def configure_logs() -> None:
    """Set up logging for a program; called once, at the program's start."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("components").setLevel(logging.INFO)
    logging.getLogger("pipelines").setLevel(logging.INFO)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # pydantic-settings, torch's pin_memory and peft's save warn about settings that are ours on purpose.
    warnings.filterwarnings("ignore", category=UserWarning)
    warnings.filterwarnings("ignore", category=FutureWarning)
