"""The pipeline's first component, whose signature is generated from the list of pipeline parameters.

KFP ships a component as source text, and its executor reads the parameters' names and types from that text. So this
component is generated as text too; all others are in ``pipelines/definition/tasks.py``.
"""

import linecache
from typing import Any, NamedTuple, Optional

from kfp import dsl

from pipelines.settings.pipeline_parameters import pipeline_parameters
from pipelines.task_side.step_settings import StepSettings

_FILE = "<configure, made by pipelines/definition/configure_component.py>"
_SOURCE = '''def configure(
    config: str,
    {parameters},
    skip_if_unchanged: bool = False,
    run_pages: str = "",
    run_name: str = "",
    *,
    plan: dsl.Output[dsl.Markdown],
) -> NamedTuple("StepSettings", [{outputs}]):
    """Check the whole configuration before anything runs, and give each step its own part of it."""
    from pipelines.task_side.resolution import configure

    return configure(config, dict({given}), skip_if_unchanged, plan.path, run_name, run_pages)
'''


def configure_component(image: str) -> Any:
    """Return the KFP component ``configure`` for ``image``."""
    parameters = pipeline_parameters()
    source = _SOURCE.format(
        parameters=",\n    ".join(f"{one.name}: Optional[{one.type.__name__}] = None" for one in parameters),
        outputs=", ".join(f'("{name}", str)' for name in StepSettings._fields),
        given=", ".join(f"{one.name}={one.name}" for one in parameters),
    )
    # KFP gets the text by inspect.getsource, which looks here.
    linecache.cache[_FILE] = (len(source), None, source.splitlines(keepends=True), _FILE)
    namespace: dict[str, Any] = {"__name__": __name__, "dsl": dsl, "NamedTuple": NamedTuple, "Optional": Optional}
    exec(compile(source, _FILE, "exec"), namespace)
    return dsl.component(base_image=image, install_kfp_package=False)(namespace["configure"])
