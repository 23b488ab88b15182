"""``deepsynth verify``, ``register`` and ``push``: check a finished package, register it, upload it."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from components.shared.errors import UserError, printable
from pipelines.commands.adapters_command import RunsDir

EXIT_CODE_DIFFERS = 1


_Package = Annotated[Path, typer.Argument(help="The zip, its unpacked folder, or the folder that export made.")]


def verify(
    package: _Package,
    dataset_dir: Annotated[Path | None, typer.Option(help="The folder that prepare made: manifest and shards.")] = None,
    adapter_dir: Annotated[Path | None, typer.Option(help="The folder that train made.")] = None,
    evaluation_dir: Annotated[Path | None, typer.Option(help="The folder that evaluate made.")] = None,
    base_model: Annotated[Path | None, typer.Option(help="The base model's folder.")] = None,
    sha256: Annotated[
        str | None, typer.Option(help="The zip's digest from elsewhere, e.g. the registry's tag package_sha256.")
    ] = None,
    vllm: Annotated[
        str | None, typer.Option(help="Address of a vLLM server that serves the package, e.g. http://127.0.0.1:8000.")
    ] = None,
    vllm_python: Annotated[
        Path | None, typer.Option(help="A Python with vLLM: its server is started for the proof, and ended.")
    ] = None,
    vllm_model: Annotated[
        str | None, typer.Option(help="The adapter's name on the server; by default the only one there.")
    ] = None,
    page: Annotated[
        list[Path] | None, typer.Option(help="A picture to read with vLLM and here; by default the example page.")
    ] = None,
) -> None:
    """Recompute every digest of a package's lineage, and report what differs and what could not be checked.

    The last line is the verdict. In the folder of a run, the run's dataset, adapter and evaluation are compared too.

    Exit code 0: everything that could be checked matches. 1: something differs. 2: the package cannot be read, or
    --sha256 was given for an unpacked package.

    With `--vllm` or `--vllm-python`, vLLM reads pages with the package's adapter, exported with `serving: [vllm]`, and
    so does this machine. 1 also if the texts differ by more than rounding, or no page shows that the adapter answers.
    The variable VLLM_API_KEY holds the server's key, if it has one.

    If someone rewrites both files and lineage, they match each other; `--sha256` and the folders detect that.

    **Examples**

    - `deepsynth verify runs/20261121-030000/package`

    - the whole chain: `deepsynth verify reader.zip --dataset-dir dataset --evaluation-dir evaluation --sha256 3f0c…`

    - what vLLM serves: `deepsynth verify reader.zip --vllm http://127.0.0.1:8000 --page page.png`
    """
    from components.export.lineage.findings import verdict_of
    from components.export.lineage.integrity import check_integrity

    reach = _reach(package, dataset_dir, adapter_dir, evaluation_dir, base_model, sha256)
    findings = check_integrity(package, reach)
    _print(findings)
    _print_line(f"{'verdict:':<12}{verdict_of(findings)}")
    if any(finding.state == "differs" for finding in findings):
        raise typer.Exit(EXIT_CODE_DIFFERS)
    if (vllm or vllm_python) and not _proven(package, vllm, vllm_python, vllm_model, page or [], base_model):
        raise typer.Exit(EXIT_CODE_DIFFERS)


def _reach(package: Path, *given: Any) -> Any:
    """Return the ``Reach`` of what was ``given``, in its order, and of the folders beside the package."""
    from components.export.lineage.findings import Reach
    from pipelines.local.runs_folder import folders_beside

    dataset_dir, adapter_dir, evaluation_dir, base_model, sha256 = given
    for folder in (dataset_dir, adapter_dir, evaluation_dir, base_model):
        if folder is not None and not folder.is_dir():
            raise UserError("no such folder", where=str(folder))
    beside = folders_beside(package)
    return Reach(
        dataset_dir or beside.get("dataset"),
        adapter_dir or beside.get("adapter"),
        evaluation_dir or beside.get("evaluation"),
        base_model,
        sha256,
    )


def _proven(
    package: Path,
    address: str | None,
    python: Path | None,
    model: str | None,
    pages: list[Path],
    base_model: Path | None,
) -> bool:
    """Print what vLLM reads beside what this machine reads, and return whether that proves the package served."""
    from components.export.proof.served_pages import Proof, prove_at, prove_with
    from components.export.proof.vllm_client import VllmServer

    if address and python:
        raise UserError("a server's address or a Python to start one with, not both", where="--vllm, --vllm-python")
    proof = Proof(package, tuple(pages), base_model, model)
    if python:
        verdict = prove_with(proof, python)
    else:
        verdict = prove_at(proof, VllmServer(str(address), os.environ.get("VLLM_API_KEY")))
    _print_line(f"{'vllm:':<12}{verdict}")
    return verdict.state == "proven"


def register(
    package: _Package,
    name: Annotated[str, typer.Option("--as", help="The registered model's name.")],
    runs_dir: RunsDir = Path("runs"),
) -> None:
    """Register a finished package as the next version of a model in the MLflow registry (MLFLOW_TRACKING_URI).

    It gets the alias `challenger`, and also `champion` if the gate promoted its adapter. A package that is already
    registered gets no second version.

    **Example**: `deepsynth register runs/20261121-030000/package --as page-reader`
    """
    from components.export.publication.registration import register_package
    from pipelines.local.runs_folder import tracking_uri

    # The same store as in `deepsynth run` and `deepsynth adapters`.
    os.environ["MLFLOW_TRACKING_URI"] = tracking_uri(runs_dir)
    registered = register_package(package, name)
    _print_line(f"{registered}: {', '.join(registered.aliases)}")


def push(
    package: _Package,
    to: Annotated[str, typer.Option(help="The repository on the Hugging Face hub, as OWNER/NAME.")],
    public: Annotated[bool, typer.Option("--public", help="Make a new repository public.")] = False,
) -> None:
    """Upload a finished package to the Hugging Face hub, with the token in HF_TOKEN.

    **Example**: `HF_TOKEN=hf_… deepsynth push runs/20261121-030000/package --to me/page-reader`
    """
    from components.export.publication.hub_upload import push_package

    _print_line(push_package(package, to, public=public))


def _print_line(text: str) -> None:
    Console(soft_wrap=True, highlight=False, markup=False).print(printable(text))


def _print(findings: list[Any]) -> None:
    console = Console(soft_wrap=True, highlight=False, markup=False)
    for link in dict.fromkeys(finding.link for finding in findings):
        of_link = [finding for finding in findings if finding.link == link]
        states = [finding.state for finding in of_link]
        counts = ", ".join(
            f"{states.count(state)} {word}"
            for state, word in (("matches", "match"), ("differs", "DIFFER"), ("not reached", "not reached"))
            if state in states
        )
        console.print(f"{link + ':':<12}{counts}")
        for finding in of_link:
            if finding.state != "matches":
                console.print(f"{'':<12}{printable(f'{finding.state}: {finding.subject}: {finding.detail}')}")
