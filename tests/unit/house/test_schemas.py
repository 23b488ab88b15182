"""``docs/schemas`` describes the files that the steps really write."""

import json

import jsonschema
import pytest

from components.shared.artifacts.step_file import StepFile
from docs.write_schemas import FOLDER, MODELS, schemas
from tests.fixtures.training_record import training_record


def test_the_schemas_are_those_of_todays_models() -> None:
    written = {path: path.read_text(encoding="utf-8") for path in sorted(FOLDER.iterdir())}
    assert written == dict(sorted(schemas().items())), "python docs/write_schemas.py writes them again"


def test_every_file_of_a_step_has_a_schema_under_its_own_name() -> None:
    models = {name: model for name, model in MODELS.items() if issubclass(model, StepFile)}
    assert {name: model.FILE for name, model in models.items()} == {name: name for name in models}
    ours = {model for model in StepFile.__subclasses__() if model.__module__.startswith("components.")}
    assert ours <= set(MODELS.values())


def test_a_written_file_follows_its_schema_and_a_changed_one_does_not() -> None:
    schema = json.loads((FOLDER / "training.schema.json").read_text(encoding="utf-8"))
    content = json.loads(training_record().model_dump_json())
    jsonschema.validate(content, schema)
    with pytest.raises(jsonschema.ValidationError, match="steps"):
        jsonschema.validate({**content, "steps": "three"}, schema)
    with pytest.raises(jsonschema.ValidationError, match="lr"):
        jsonschema.validate({**content, "lr": 0.1}, schema)
