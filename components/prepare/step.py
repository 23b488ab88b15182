"""The prepare step: select documents, draw their pages, write shards and manifest."""

from pathlib import Path
from tempfile import TemporaryDirectory

from components.prepare.config import PrepareConfig
from components.prepare.stages import draw_pages, select_with, worker_pool, write_dataset
from components.shared.artifacts.dataset_manifest import DatasetManifest
from components.shared.artifacts.output_folder import finished_folder
from components.shared.tracking.step_run import step_run


def run(config: PrepareConfig) -> DatasetManifest:
    """Make the dataset folder ``config.output_dir`` and return its manifest.

    Raises:
        UserError: a source, a font or the output folder is not usable, or no page is left to learn from.
    """
    with (
        step_run("prepare", config.data_settings()) as tracked,
        finished_folder(config.output_dir) as folder,
        TemporaryDirectory(prefix=".work-", dir=folder) as work,
        worker_pool(config) as pool,
    ):
        selection_dir, pages_dir = Path(work) / "selection", Path(work) / "pages"
        select_with(pool, config, selection_dir)
        draw_pages(config, selection_dir, pages_dir, pool)
        return write_dataset(config, selection_dir, [pages_dir], folder, pool, tracked)
