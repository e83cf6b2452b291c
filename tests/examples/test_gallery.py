from pathlib import Path

import gallery
import pytest
from experiment import load_data
from gallery import CASES, Examined

from gradscope.explanations import EXPLANATIONS
from gradscope.records import Severity


def test_every_finding_has_its_case() -> None:
    of_several_processes = {"rank_outlier"}
    assert sorted(case.code for case in CASES) == sorted(set(EXPLANATIONS) - of_several_processes)


def examined(folder: str, logdir: Path) -> list[Examined]:
    options = gallery.parse(["--fast", "--logdir", str(logdir)])
    data = load_data(folder, limit=gallery.EXAMPLES)
    return [gallery.examine(case, data, options) for case in CASES]


def test_ctrl_c_says_that_nothing_is_drawn(tmp_path: Path, no_network: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> Examined:
        raise KeyboardInterrupt

    monkeypatch.setattr(gallery, "examine", interrupted)
    with pytest.raises(SystemExit, match="Interrupted: the gallery is drawn when all its nets are trained"):
        gallery.main(["--fast", "--logdir", str(tmp_path), "--data-dir", "nothing"])


@pytest.mark.slow
def test_every_disease_is_found_and_gone_after_its_cure(image_dir: str, tmp_path: Path) -> None:
    all_of_them = examined(image_dir, tmp_path)
    for one in all_of_them:
        assert one.case.code in {finding.code for finding in one.findings}
        assert [finding for finding in one.after_cure if finding.severity >= Severity.WARNING] == []
    # Weights that are wrong for a SELU show at once and then drift: these two come together, the others alone.
    alone = [one for one in all_of_them if "selu" not in one.case.code]
    assert [one.case.code for one in alone if len(one.findings) > 1] == []
    gallery.draw(all_of_them, tmp_path / "gallery.png")
    assert (tmp_path / "gallery.png").stat().st_size > 50_000
