"""Take the pictures in docs/pictures: five runs that differ in their learning rate, in MLflow's UI and in our pages.

It needs a browser and Playwright, which this project does not install (Debian):

    apt-get install chromium
    python3 -m venv /tmp/browser && /tmp/browser/bin/pip install playwright==1.65.2
    /tmp/browser/bin/python docs/take_pictures.py FOLDER

FOLDER gets the runs, by the commands that are printed; runs that are there are not made again. On 2
cores beside other work each took 335 to 438 s.
"""

import argparse
import contextlib
import json
import re
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).parents[1]
DEEPSYNTH = ROOT / ".venv" / "bin" / "deepsynth"
PICTURES = ROOT / "docs" / "pictures"
LEARNING_RATES = ("0.0003", "0.001", "0.002", "0.004", "0.008")
COMPARED = ("lr-0.0003", "lr-0.002")
SETTINGS = {
    "train.max_steps": 40,
    "train.per_device_train_batch_size": 16,
    "prepare.max_train_pages": 640,
    "prepare.max_eval_pages": 40,
    "evaluate.bootstrap_resamples": 500,
    "benchmark.max_steps": 3,
    "benchmark.warmup_steps": 1,
}
WIDTH, HEIGHT, HEIGHT_OF_OWN_PAGES = 1280, 800, 980
SECONDS = 120
MODEL_TRAINING = "workflowType=machine_learning"
"""MLflow's menu for experiments that train models."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the runs are, or will be")
    parser.add_argument("--chromium", default="/usr/bin/chromium", help="the browser")
    arguments = parser.parse_args()
    folder = arguments.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    make_runs(folder)
    deepsynth(folder, "compare", *COMPARED, "-o", "compare.html")
    with ui(folder) as address, sync_playwright() as playwright:
        # Chromium as root needs --no-sandbox; it opens pages of this machine alone.
        browser = playwright.chromium.launch(executable_path=arguments.chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        page.set_default_timeout(SECONDS * 1000)
        take_own_pages(page, folder)
        take_mlflow(page, address)
        browser.close()
    for path in sorted(PICTURES.glob("*.png")):
        print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1000:.0f} kB")


def make_runs(folder: Path) -> None:
    for rate in LEARNING_RATES:
        if not (folder / "runs" / f"lr-{rate}").exists():
            settings = SETTINGS | {"train.learning_rate": rate}
            given = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
            deepsynth(folder, "run", "--run-id", f"lr-{rate}", *given)


def deepsynth(folder: Path, *arguments: str) -> None:
    print("deepsynth", *arguments, flush=True)
    subprocess.run([DEEPSYNTH, *arguments], cwd=folder, check=True)


@contextlib.contextmanager
def ui(folder: Path) -> Iterator[str]:
    """Run `deepsynth ui` and yield the address that it prints."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [DEEPSYNTH, "ui", "--port", str(port)]
    server = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert server.stdout
        printed = re.search(r"http://\S+", server.stdout.readline())
        deadline = time.monotonic() + SECONDS
        while socket.socket().connect_ex(("127.0.0.1", port)) != 0:
            if server.poll() is not None or time.monotonic() > deadline:
                raise SystemExit("deepsynth ui does not answer")
            time.sleep(0.3)
        assert printed
        yield printed[0]
    finally:
        server.terminate()
        server.wait()


def take_own_pages(page: Page, folder: Path) -> None:
    page.set_viewport_size({"width": WIDTH, "height": HEIGHT_OF_OWN_PAGES})
    for file, name in (
        (folder / "runs" / COMPARED[1] / "evaluation" / "report.html", "evaluation-report"),
        (folder / "compare.html", "compare"),
    ):
        page.goto(file.as_uri())
        if wider := page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"):
            raise SystemExit(f"{file} is {wider} pixels too wide for a window of {WIDTH}")
        page.screenshot(path=PICTURES / f"{name}.png")
    page.set_viewport_size({"width": WIDTH, "height": HEIGHT})
    page.goto((folder / "runs" / COMPARED[1] / "evaluation" / "report.html").as_uri())
    page.get_by_role("heading", name="Worst pages").scroll_into_view_if_needed()
    page.evaluate("document.querySelector('article').previousElementSibling.previousElementSibling.scrollIntoView()")
    page.wait_for_timeout(1000)
    page.screenshot(path=PICTURES / "evaluation-report-pages.png")


def take_mlflow(page: Page, address: str) -> None:
    """Take MLflow's pages of the runs in the store; ``address`` is that of the list of runs."""
    server = address.partition("/#")[0]
    found = runs(server)
    page.goto(address)
    page.get_by_text("pipeline lr-0.001").first.wait_for()
    page.get_by_role("button", name="Close", exact=True).click()  # MLflow's assistant
    page.get_by_role("button", name="Toggle sidebar").click()
    page.get_by_role("button", name="Hide banner").click()
    shot(page, "mlflow-runs")
    page.goto(f"{address}&compareRunsMode=CHART")
    chart = page.get_by_test_id("experiment-view-compare-runs-card").first
    chart.get_by_role("button").first.click()  # its full-screen view
    shot(page, "mlflow-parallel-coordinates")
    two = json.dumps([found[name, None] for name in COMPARED], separators=(",", ":"))
    page.goto(f'{server}/#/compare-runs?runs={two}&experiments=["1"]&{MODEL_TRAINING}')
    page.get_by_text("Visualizations").click()
    for switch in page.get_by_role("switch").all():
        switch.click()  # "Show diff only"
    page.get_by_text("Run details").scroll_into_view_if_needed()
    shot(page, "mlflow-two-runs")
    two = json.dumps([found[name, "train"] for name in COMPARED], separators=(",", ":"))
    page.goto(
        f'{server}/#/metric?runs={two}&metric="loss"&experiments=["1"]&plot_metric_keys=["loss"]&{MODEL_TRAINING}'
    )
    page.get_by_role("radio", name="Step").click()
    shot(page, "mlflow-losses")
    evaluated = found[COMPARED[1], "evaluate"]
    page.goto(f"{server}/#/experiments/1/runs/{evaluated}/artifacts/report.html?{MODEL_TRAINING}")
    shot(page, "mlflow-report")
    page.goto(f"{server}/#/experiments/1/runs/{found[COMPARED[1], None]}?{MODEL_TRAINING}")
    shot(page, "mlflow-run")


def runs(server: str) -> dict[tuple[str, str | None], str]:
    """Return (pipeline run, step) -> MLflow's id; the step of a parent is None."""
    body = json.dumps({"experiment_ids": ["1"], "max_results": 1000}).encode()
    request = urllib.request.Request(f"{server}/api/2.0/mlflow/runs/search", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=SECONDS) as answer:
        found = json.load(answer)["runs"]
    ids = {}
    for run in found:
        tags = {tag["key"]: tag["value"] for tag in run["data"]["tags"]}
        ids[tags.get("kfp.run_id"), tags.get("deepsynth.step")] = run["info"]["run_id"]
    return ids


def shot(page: Page, name: str) -> None:
    page.wait_for_timeout(6000)  # pages load their figures one after the other, and charts move
    page.screenshot(path=PICTURES / f"{name}.png")


if __name__ == "__main__":
    main()
