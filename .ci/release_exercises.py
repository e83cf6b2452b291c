"""What a stranger does with an installed GradScope: one exercise a process, in the working directory, in this order.

    python release_exercises.py --list
    python release_exercises.py NAME

Run by `release_check.py` with the Python of an environment that holds the wheel and what it depends on, nothing else.
"""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

BIN = Path(sys.executable).parent
LOGS = Path("lightning_logs")
FIT = """
import pytorch_lightning as pl, torch
from torch import nn

class Net(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 4))
    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

data = torch.utils.data.TensorDataset(torch.randn(80, 20), torch.randint(0, 4, (80,)))
trainer = pl.Trainer(max_epochs=1, accelerator="cpu", log_every_n_steps=1, callbacks=CALLBACKS)
trainer.fit(Net(), torch.utils.data.DataLoader(data, 16))
"""


def ran(*command: str | Path, code: int = 0, **environ: str) -> str:
    """Run `command`; return what it printed, on both streams, once it ended with `code`."""
    done = subprocess.run(
        [str(part) for part in command],
        env={**os.environ, "COLUMNS": "120", **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == code, f"{command} ended with {done.returncode}: {done.stdout}"
    return done.stdout


def it_is_the_installed_package_and_no_extra() -> None:
    """Nothing here comes from the checkout, and nothing that only extras bring."""
    import gradscope

    assert Path(gradscope.__file__).is_relative_to(sys.prefix), gradscope.__file__
    assert [name for name in ("pandas", "pyarrow", "matplotlib", "sklearn", "pytest") if find_spec(name)] == []


def the_entry_points_can_be_loaded() -> None:
    """What Lightning, TensorBoard and the shell find."""
    for group in ("pytorch_lightning.callbacks_factory", "lightning.pytorch.callbacks_factory"):
        (factory,) = entry_points(group=group)
        assert factory.load()() == []
    (tab,) = [point for point in entry_points(group="tensorboard_plugins") if point.name == "gradscope"]
    assert tab.load().__module__ == "gradscope.dashboard.entry"
    (command,) = [point for point in entry_points(group="console_scripts") if point.name == "gradscope"]
    assert callable(command.load())


def a_fit_is_logged() -> None:
    """Five steps on random data, with the callback that a script adds."""
    printed = ran(
        sys.executable,
        "-c",
        "from gradscope import GradScope\n" + FIT.replace("CALLBACKS", "[GradScope(every_n_steps=1)]"),
    )
    assert "net.0" in printed, printed
    from gradscope import load

    (run,) = load(LOGS).values()
    assert run.steps.tolist() == [0, 1, 2, 3, 4]
    assert [layer.name for layer in run.layers] == ["net.0", "net.1", "net.2"]
    assert (run.metric("grad_norm")[:, [0, 2]] > 0).all()


def the_command_line_answers() -> None:
    """The command, and the module in its place."""
    import gradscope

    command = BIN / "gradscope"
    assert gradscope.__version__ in ran(command, "--version")
    assert ran(sys.executable, "-m", "gradscope", "--version") == ran(command, "--version")
    assert "net.2" in ran(command, "summary", LOGS)
    (run,) = json.loads(ran(command, "summary", "--json", LOGS))["runs"]
    assert run["records"] == 5
    fails = any(finding["severity"] != "info" for finding in run["findings"])
    ran(command, "check", "--fail-on", "warning", LOGS, code=int(fails))
    assert "vanish" in ran(command, "explain", "vanishing_gradient").lower()
    ran(command, "summary", "nowhere", code=2)
    assert "grad_norm" in ran(command, "export", "--to", "csv", LOGS)
    assert "extra `export`" in ran(command, "export", "--to", "parquet", LOGS, "-o", "out.parquet", code=2)


def a_report_is_written() -> None:
    """One file that names no other place."""
    ran(BIN / "gradscope", "report", LOGS, "-o", "report.html")
    assert "net.2" in Path("report.html").read_text(encoding="utf-8")


def a_script_that_does_not_name_it_is_watched() -> None:
    """By the command, and by the environment."""
    Path("script.py").write_text(FIT.replace("CALLBACKS", "[]"), encoding="utf-8")
    plain = ran(sys.executable, "script.py")
    watched = ran(sys.executable, "script.py", GRADSCOPE="1")
    assert [("net.0" in text) for text in (plain, watched, ran(BIN / "gradscope", "run", "script.py"))] == [
        False,
        True,
        True,
    ]


def tensorboard_shows_the_tab() -> None:
    """Its server lists the plug-in, its files and the run."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [BIN / "tensorboard", "--logdir", LOGS, "--port", str(port), "--host", "127.0.0.1"]
    server = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        runs = wait_for(f"http://127.0.0.1:{port}/data/plugin/gradscope/runs", "version_0")
        assert "grad_norm" in runs
        listed = json.loads(fetched(f"http://127.0.0.1:{port}/data/plugins_listing"))["gradscope"]
        assert listed["enabled"]
        entry = listed["loading_mechanism"]["module_path"]
        assert fetched(f"http://127.0.0.1:{port}{entry}")
    finally:
        server.terminate()
        server.wait(30)


def fetched(address: str) -> str:
    """Return what `address` answers."""
    with urllib.request.urlopen(address, timeout=30) as answer:
        return str(answer.read().decode())


def wait_for(address: str, word: str, seconds: float = 120) -> str:
    """Return what `address` answers once there is `word` in it."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            if word in (text := fetched(address)):
                return text
        except OSError:
            pass
        time.sleep(0.5)
    raise AssertionError(f"{address} did not answer with {word} in {seconds:.0f} s")


def others_start_where_the_package_is_gone() -> None:
    """The last one: the files are moved away, as where a directory was removed by hand, and the metadata stays."""
    spec = find_spec("gradscope")
    assert spec is not None
    assert spec.origin is not None
    package = Path(spec.origin).parent
    package.rename(package.with_name("gone"))
    assert "is off although the environment asks for it" in ran(sys.executable, "script.py", GRADSCOPE="1")
    assert "GradScope" not in ran(sys.executable, "script.py")
    loaded = "from tensorboard.default import get_plugins; print(len(get_plugins()))"
    assert "has no tab in TensorBoard" in ran(sys.executable, "-c", loaded)


EXERCISES = (
    it_is_the_installed_package_and_no_extra,
    the_entry_points_can_be_loaded,
    a_fit_is_logged,
    the_command_line_answers,
    a_report_is_written,
    a_script_that_does_not_name_it_is_watched,
    tensorboard_shows_the_tab,
    others_start_where_the_package_is_gone,
)

if __name__ == "__main__":
    by_name = {exercise.__name__: exercise for exercise in EXERCISES}
    if sys.argv[1:] == ["--list"]:
        print(*by_name, sep="\n")
    else:
        by_name[sys.argv[1]]()
