"""Take the README's pictures from real runs: `python examples/pictures/take.py lightning_logs`.

Needs a Chromium, and `pip install playwright` for its Python binding. `terminal.png` is what `gradscope summary` prints
of one run, `tensorboard_*.png` are TensorBoard's own dashboards of all runs, from a server on this machine. With
`--tab` it is one picture of the GRADSCOPE tab instead: `--tab tab_dead.png runs=relu metric=dead_fraction --dark`.
"""

import argparse
import io
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright
from rich.console import Console

from gradscope import diagnose, load
from gradscope.report import Report

HERE = Path(__file__).parent
BROWSER_FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-sync"]
DASHBOARDS = {
    "scalars": ("#scalars&tagFilter=gradscope%2Fgrad_norm", 1280, 900),
    "distributions": ("#distributions", 1280, 640),
    "images": ("#images", 1280, 900),
    "text": ("#text", 1280, 720),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("logdir", type=Path)
    parser.add_argument("--run", help="the run that the terminal shows (default: the first)")
    parser.add_argument("--to", type=Path, default=HERE, help="folder of the pictures (default: %(default)s)")
    parser.add_argument(
        "--tab", nargs="+", metavar=("FILE", "NAME=VALUE"), help="take the tab alone: what its link says"
    )
    parser.add_argument("--dark", action="store_true", help="the tab in the dark")
    parser.add_argument("--size", default="1280x800", help="of the tab, in pixels (default: %(default)s)")
    parser.add_argument("--click", action="append", default=[], metavar="SELECTOR", help="what to click on before")
    options = parser.parse_args()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=BROWSER_FLAGS)
        if options.tab:
            tab(browser, options)
            return
        terminal(browser, options.logdir, options.run, options.to / "terminal.png")
        with tensorboard(options.logdir) as address:
            for name, (fragment, width, height) in DASHBOARDS.items():
                page = browser.new_page(viewport={"width": width, "height": height})
                page.goto(address + fragment)
                settle(page)
                page.screenshot(path=options.to / f"tensorboard_{name}.png")
        browser.close()


def tab(browser: Browser, options: argparse.Namespace) -> None:
    """Take one picture of the tab, of what the link of `options.tab` shows."""
    name, *parameters = options.tab
    link = "".join(f"&p.gradscope.{parameter}" for parameter in parameters)
    width, height = map(int, options.size.split("x"))
    page = browser.new_page(
        viewport={"width": width, "height": height}, color_scheme="dark" if options.dark else "light"
    )
    with tensorboard(options.logdir) as address:
        page.goto(f"{address}#gradscope{link}")
        frame = page.frame_locator("iframe[src*=plugin_entry], iframe").first
        frame.locator("main[aria-busy=false] .heatmap canvas").first.wait_for()
        settle(page)
        for selector in options.click:
            frame.locator(selector).first.click()
            page.wait_for_timeout(800)
        page.screenshot(path=options.to / name)


def terminal(browser: Browser, logdir: Path, name: str | None, path: Path) -> None:
    """Draw what `gradscope summary` prints of the run `name`."""
    runs = load(logdir)
    run = runs[name] if name else next(iter(runs.values()))
    console = Console(record=True, width=112, force_terminal=True, file=io.StringIO())
    console.print(Report(run, diagnose(run), heat_map="grad_norm"))
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    page.set_content(f"<style>svg {{ width: 1100px }}</style>{console.export_svg(title='gradscope summary')}")
    page.locator("svg").screenshot(path=path)


@contextmanager
def tensorboard(logdir: Path) -> Iterator[str]:
    """Serve `logdir` on a free port of this machine, and stop at the end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(logdir), "--host", "127.0.0.1"]
    process = subprocess.Popen([*command, "--port", str(port)], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        wait_for(f"http://127.0.0.1:{port}/data/runs")
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.terminate()
        process.wait(timeout=20)


def wait_for(address: str) -> None:
    for _ in range(100):
        try:
            with urllib.request.urlopen(address) as answer:
                if answer.read() != b"[]\n" and answer.status == 200:
                    break
        except OSError:
            pass
        time.sleep(0.3)
    time.sleep(5)  # the server lists runs before it has read them


def settle(page: Page) -> None:
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(3000)


if __name__ == "__main__":
    main()
