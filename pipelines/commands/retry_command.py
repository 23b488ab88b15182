"""``deepsynth retry``: let KFP try the failed steps of a run again."""

from typing import Annotated

import typer

from components.shared.errors import UserError
from pipelines.commands.cluster_options import EnvironmentFile, Host, cluster_environment, connected
from pipelines.commands.submit_command import PollSeconds, follow_to_the_end

_SECONDS_BETWEEN_LOOKS = 5.0


def retry(
    run_id: Annotated[str, typer.Argument(help="The failed or cancelled run's id.")],
    host: Host = None,
    environment: EnvironmentFile = None,
    poll_seconds: PollSeconds = _SECONDS_BETWEEN_LOOKS,
) -> None:
    """Run the failed steps of a run again, with the same settings and images, and follow the run to its end.

    Steps that succeeded keep their outputs and do not run again. A training resumes from its last checkpoint if the
    environment has `checkpoints`. Changed settings or images need a new run: `deepsynth submit`.

    Exit codes: as of `deepsynth submit --wait`.

    **Example**: `deepsynth retry 0b9b6b0c-4f0f-4ac5-9c58-1f1e35b4e7a1 --environment production.yaml`
    """
    from pipelines.following.workflow_nodes import step_states

    settings = cluster_environment(environment)
    api = connected(host, settings)
    run = api.call("runs", "run_service_get_run", run_id=run_id)
    if run.state != "FAILED":
        mend = "start a new run with: deepsynth submit" if run.state == "SUCCEEDED" else "wait, with: deepsynth follow"
        raise UserError(
            f"only a failed run can be tried again, this one is {run.state.lower()}", where=run_id, mend=mend
        )
    steps = step_states(run)
    kept = [step.name for step in steps if step.state == "SUCCEEDED" and step.name != "close-run"]
    again = [step.name for step in steps if step.state in ("FAILED", "CANCELED")]
    api.call("runs", "run_service_retry_run", run_id=run_id)
    print(f"kept: {', '.join(kept) or 'nothing'}")
    print(f"tried again: {', '.join(again) or 'the run, from its first step'}")
    if "train" in again and settings.checkpoints is None:
        print("note: the environment has no checkpoints volume: the training starts at its first step")
    follow_to_the_end(api, settings, run_id, poll_seconds, environment)
