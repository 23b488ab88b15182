"""The export step's whole interface."""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from components.shared.programs.step_config import StepConfig


class ExportConfig(StepConfig):
    """Pack a trained adapter with a script that runs it, a model card and its lineage, and check that it works."""

    base_model: str = "tiny-base"
    """folder, hub id, or ``tiny-base`` for the bundled model"""
    adapter_dir: Path
    """folder made by the train step"""
    dataset_dir: Path
    """folder made by the prepare step; the one that the evaluation read"""
    evaluation_dir: Path
    """folder made by the evaluate step for this adapter"""
    gate_dir: Path | None = None
    """folder made by the gate step for this evaluation; its verdict goes into the lineage and the tags, and a promoted
    adapter becomes the champion when it is registered"""
    output_dir: Path
    """folder to create, with the zip, README.md and lineage.json"""
    include_base_model: bool | None = None
    """pack the base model's files too; by default only if the base is a local folder of at most 100 MB"""
    verify: bool = True
    """unpack the package, run its script on a held-out page and compare the text with the evaluation's prediction"""
    fresh_environment: bool = False
    """verify in a new virtual environment, installed from the package's requirements.txt with pip's own settings
    (offline: PIP_NO_INDEX=1 and PIP_FIND_LINKS); takes minutes and gigabytes; by default this Python is used"""
    merge: bool = False
    """also merge the adapter into the base's weights (bfloat16), write them to output_dir/merged, and check that they
    transcribe the same text"""
    serving: list[Literal["vllm"]] = Field(default=[], max_length=1)
    """engines to serve the package with, besides deepsynth serve: [vllm] adds the folder vllm, with the adapter under
    the names that vLLM's class knows; an adapter that vLLM would not load needs merge: true (docs/serving-vllm.md)"""
    max_new_tokens: int | None = Field(default=None, ge=1)
    """longest answer of the packaged script, in tokens; by default the evaluation's, at which the card's figures were
    measured"""
    example_page: bool = True
    """show a held-out page with its reading in the model card, which is also the input example in MLflow; false for
    pages that must not leave with the package"""
    license: str = "apache-2.0"
    """licence in the model card, as a hub identifier; the base model's own licence also applies"""
    model_name: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=96)
    """the package's name; by default made from the base's name and the adapter's digest"""
    register_as: str | None = Field(default=None, pattern=r"^[^/:'\"`\s]+$")
    """name in the MLflow model registry: the package becomes its next version with the alias challenger, and also
    champion if the gate promoted it; by default nothing is registered"""
    push_to_hub: str | None = Field(default=None, pattern=r"^[A-Za-z0-9._-]+/[A-Za-z0-9._-]+$")
    """hub repository OWNER/NAME to upload the package to; the token is read from the variable HF_TOKEN"""
    hub_public: bool = False
    """make a repository that push_to_hub creates public"""
    revision: str | None = None
    """commit or tag of a hub model"""
    trust_remote_code: bool = False
    """allow a hub model to run its own Python code; pin ``revision`` with it"""

    @model_validator(mode="after")
    def _fresh_environment_needs_verify(self) -> "ExportConfig":
        if self.fresh_environment and not self.verify:
            raise ValueError("fresh_environment needs verify, which is off")
        return self
