"""The engines that read pages: a model in this process."""
