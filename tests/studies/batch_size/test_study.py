"""The smoke study itself: one command, a report with the laws and every figure it promises, and nothing left to do."""

import json
import re
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_the_smoke_study_shows_what_it_promises(tmp_path):
    command = [sys.executable, "-m", "paribus", "study", "batch_size", "smoke"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    folder = tmp_path / "runs/batch_size-smoke"
    page = (folder / "report.html").read_text()
    for law in ("lazy: η⋆", "rich: η_max", "coordinate check", "batch size: saturation"):
        assert law in page
    verdicts = re.findall(r">(holds|fails|inconclusive)<", page)
    assert len(verdicts) == 14
    assert "fails" not in verdicts
    drawn = {path.stem for path in (folder / "report_figures").glob("*.svg")}
    assert {"portrait-portrait", "heatmap_batch-map", "heatmap_temperature-map", "collapse-map"} <= drawn
    assert {"coordinate_check-coordinate_check", "heatmap_batch-digits"} <= drawn
    states = [json.loads(path.read_text())["state"] for path in folder.glob("*/*/STATUS.json")]
    assert states == ["done"] * 95
    before = sorted(path.stat().st_mtime_ns for path in folder.rglob("*.parquet"))
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert again.returncode == 0
    assert sorted(path.stat().st_mtime_ns for path in folder.rglob("*.parquet")) == before
