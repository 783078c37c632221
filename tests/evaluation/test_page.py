"""The page: everything in one file, nothing taken for HTML."""

from __future__ import annotations

from pathlib import Path

from napari_biomedparse.evaluation.page import write_page
from napari_biomedparse.evaluation.scores import CaseScore, ClassLine
from napari_biomedparse.evaluation.tables import summarise


def test_names_and_prompts_are_shown_as_they_are(tmp_path: Path) -> None:
    scores = [CaseScore("a", (ClassLine(1, "<b>cells</b>", dsc=0.25),), 2.0, 300.0)]
    picture = tmp_path / "x.png"
    picture.write_bytes(b"PNG")
    write_page(
        tmp_path / "index.html",
        scores,
        summarise(scores),
        {"bad & worse": "<damaged>"},
        {"model": "demo"},
        {"dsc": picture},
        {"a: 0.25": picture},
    )
    page = (tmp_path / "index.html").read_text("utf-8")
    assert "&lt;b&gt;cells&lt;/b&gt;" in page and "<b>" not in page
    assert "bad &amp; worse" in page and "&lt;damaged&gt;" in page
    assert "0.2500 ± 0.0000 (1)" in page and "<td>300</td>" in page
    assert page.count("base64,UE5H") == 2 and "http" not in page
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["index.html", "x.png"]
