"""The pipeline's tasks by their KFP names, in the order of the work, with the titles that KFP's pages show."""

TASK_TITLES = {
    "configure": "Check the configuration",
    "prepare": "Prepare the dataset",
    "select-documents": "Select the documents",
    "draw-pages": "Draw one partition's pages",
    "assemble-dataset": "Assemble the dataset",
    "train": "Train the adapter",
    "evaluate": "Evaluate base and adapter",
    "benchmark": "Benchmark the trainers",
    "gate": "Decide on the promotion",
    "export": "Export the package",
    "close-run": "Close the run in MLflow",
}

TASK_KINDS = {
    **dict.fromkeys(("configure", "gate", "close-run"), "control"),
    **dict.fromkeys(("prepare", "select-documents", "draw-pages", "assemble-dataset"), "prepare"),
    **dict.fromkeys(("train", "evaluate", "benchmark"), "gpu"),
    "export": "export",
}
"""The key of the environment's ``resources`` that each task gets."""
