"""The pipeline run's name and the address of its page, as its MLflow parent shows them."""

import os

RUN_NAME_VARIABLE = "DEEPSYNTH_RUN_NAME"
RUN_PAGE_VARIABLE = "DEEPSYNTH_RUN_PAGE"
"""Set by ``deepsynth run``: a local run's id, and its folder's address. KFP's local runner has another name for it."""


def run_identity(run_name: str, run_pages: str) -> tuple[str, str]:
    """Return the run's name and its page's address, which is empty if it is not known.

    Args:
        run_name: what KFP put in place of ``dsl.PIPELINE_JOB_NAME_PLACEHOLDER``: on a cluster the run's display name.
        run_pages: the address of KFP's run pages without the run's id.
    """
    run_id = os.environ.get("KFP_RUN_ID", "")
    page = os.environ.get(RUN_PAGE_VARIABLE) or (f"{run_pages}{run_id}" if run_pages else "")
    return os.environ.get(RUN_NAME_VARIABLE) or run_name or run_id, page
