"""How long the GRADSCOPE tab takes: from its frame to the first picture and to the verdicts, and to follow the user.

    python benchmarks/tab.py                                  # 2 runs of 2,400 layers by 1,000 records
    python benchmarks/tab.py --runs 200 --layers 50 --records 100

Needs a Chromium, and `pip install playwright`. A real TensorBoard on this machine, in a headless browser. The times
are those of the wall, so run it on a quiet machine, more than once. A zoom or a move of the slider is timed from the
user's event until the page has been drawn twice: where that takes two frames, the page keeps up with the screen.
"""

import argparse
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from logs import records, write
from playwright.sync_api import Frame, Page, sync_playwright
from rich.console import Console
from rich.table import Table

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-sync"]
SHOWN = 2
TIMES = 30
DRAWN = "document.querySelector('.heatmap canvas.cells')?.height > 50"
JUDGED = f"document.querySelectorAll('.verdict:not(.unjudged)').length === {SHOWN}"
GESTURE = """async ([name, times]) => {
  const map = document.querySelector('.heatmap');
  const slider = document.querySelector('.slider input');
  const acts = {
    zoom: (i) => map.dispatchEvent(new KeyboardEvent('keydown', {key: i % 20 < 10 ? '+' : '-', bubbles: true})),
    cursor: () => map.dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowRight', bubbles: true})),
    slider: (i) => { slider.value = i; slider.dispatchEvent(new Event('input')); },
    nothing: () => {},
  };
  map.focus();
  const frame = () => new Promise((done) => requestAnimationFrame(done));
  const took = [];
  for (let i = 0; i < times; i++) {
    const began = performance.now();
    acts[name](i);
    await frame();
    await frame();
    took.push(performance.now() - began);
  }
  return took;
}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("runs", 2), ("layers", 2400), ("records", 1000), ("metrics", 13)):
        parser.add_argument(f"--{name}", type=int, default=default, help="(default: %(default)s)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for run in range(options.runs):
            path = Path(folder, f"run_{run:03}", "events.out.tfevents.1")
            write(path, records(options.records, options.layers, options.metrics))
        with tensorboard(Path(folder), options.runs) as address:
            title = f"{options.runs} runs, {options.layers:,} layers x {options.records:,} records x {options.metrics}"
            measure(address, title)


def measure(address: str, title: str) -> None:
    table = Table("", "median", "slowest", title=title, title_justify="left")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(f"{address}/#gradscope&p.gradscope.runs=run_000,run_001")
        frame = frame_of(page)
        began = time.perf_counter()
        for what, condition in (("first picture", DRAWN), ("verdicts", JUDGED)):
            frame.wait_for_function(condition, timeout=120_000)
            table.add_row(what, f"{time.perf_counter() - began:.2f} s", "")
        for name in ("nothing", "cursor", "slider", "zoom"):
            took = frame.evaluate(GESTURE, [name, TIMES])
            table.add_row(f"two frames with {name}", f"{statistics.median(took):.0f} ms", f"{max(took):.0f} ms")
        browser.close()
    Console(width=120).print(table)


def frame_of(page: Page) -> Frame:
    while True:
        for frame in page.frames:
            if "plugin_entry" in frame.url:
                return frame
        page.wait_for_timeout(10)


@contextmanager
def tensorboard(logdir: Path, runs: int) -> Iterator[str]:
    """Serve `logdir` on a free port of this machine once all is read, and stop at the end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(logdir), "--host", "127.0.0.1"]
    process = subprocess.Popen([*command, "--port", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while listed(port) < runs:
            time.sleep(0.5)
        time.sleep(5)  # runs are listed before they are read
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=20)


def listed(port: int) -> int:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/data/runs") as answer:
            text: bytes = answer.read()
            return text.count(b'"') // 2
    except OSError:
        return 0


if __name__ == "__main__":
    main()
