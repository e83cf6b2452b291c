from pathlib import Path

import gallery
import pytest
from experiment import load_data
from gallery import CASES, Examined
from torchvision.datasets import MNIST

from gradscope.explanations import EXPLANATIONS
from gradscope.records import Severity


def no_download(dataset: MNIST) -> None:
    raise RuntimeError("no network")


def test_every_finding_has_its_case() -> None:
    assert sorted(case.code for case in CASES) == sorted(EXPLANATIONS)


def examined(folder: str, logdir: Path) -> list[Examined]:
    options = gallery.parse(["--fast", "--logdir", str(logdir)])
    data = load_data(folder, limit=gallery.EXAMPLES)
    return [gallery.examine(case, data, options) for case in CASES]


@pytest.mark.slow
@pytest.mark.parametrize("data", ["MNIST", "digits"])
def test_every_disease_is_found_and_gone_after_its_cure(
    data: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MNIST, "download", no_download)
    all_of_them = examined(str(request.getfixturevalue("mnist_dir")) if data == "MNIST" else "nothing", tmp_path)
    for one in all_of_them:
        assert one.case.code in {finding.code for finding in one.findings}
        assert [finding for finding in one.after_cure if finding.severity >= Severity.WARNING] == []
    # Weights that are wrong for a SELU show at once and then drift: these two come together, the others alone.
    alone = [one for one in all_of_them if "selu" not in one.case.code]
    assert [one.case.code for one in alone if len(one.findings) > 1] == []
    gallery.draw(all_of_them, tmp_path / "gallery.png")
    assert (tmp_path / "gallery.png").stat().st_size > 50_000
