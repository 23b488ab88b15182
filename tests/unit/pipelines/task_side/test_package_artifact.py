"""KFP shows a package's card without its picture, which is in the package and not on KFP's page."""

import json
from pathlib import Path
from types import SimpleNamespace

from components.shared.digests import sha256_folder
from pipelines.task_side.artifact_metadata import describe_package


def test_the_card_names_the_picture_that_kfp_cannot_show(tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    card = "# reader\n\nA page:\n\n![A held-out page](example_page.png)\n\n<pre>one boat</pre>\n"
    (package / "README.md").write_text(card)
    files = dict.fromkeys(("README.md", "vllm/serving.json", "vllm/adapter_model.safetensors"), "0")
    (package / "lineage.json").write_text(json.dumps({"package": files}))
    artifact = SimpleNamespace(path=str(package), metadata={})
    shown = SimpleNamespace(path=str(tmp_path / "card.md"))
    describe_package(artifact, shown)
    assert artifact.metadata == {"sha256": sha256_folder(package), "serving": "vllm: the folder vllm in the zip"}
    text = (tmp_path / "card.md").read_text()
    assert text == card.replace("![A held-out page](example_page.png)", "(`example_page.png`)")
    assert (package / "README.md").read_text() == card
