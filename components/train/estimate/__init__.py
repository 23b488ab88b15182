"""Predicts how much GPU memory a training needs, without loading weights.

Reading order: ``memory_estimate`` sums the parts and is the entry point. ``model_on_meta`` builds the model that is
measured, ``step_trace`` counts the bytes of one training step, and ``vision_part``, ``unsloth_layers`` and
``unsloth_step`` replace those parts of the step that use another amount of memory on a GPU. ``gpu_limits``,
``preflight`` and ``fitting_batch`` use the estimate: the first finds which GPUs fit, the second checks the free memory
before a training, the third finds the batch that fits. ``least_memory`` is a lower bound without an estimate.
"""
