"""The report page: of a run's folder and of arrays, with everything on it."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import tifffile
from markupsafe import escape

from napari_biomedparse.data.prompts import label_colour, parse_prompts
from napari_biomedparse.data.volume import Volume
from napari_biomedparse.errors import FormatError, OptionError
from napari_biomedparse.report.drawing import existence_plot, html_color
from napari_biomedparse.report.result import RunResult
from napari_biomedparse.report.run_page import report_run, write_report
from napari_biomedparse.runs.folder import REPORT
from napari_biomedparse.runs.run import segment_to_folder

PROMPTS = parse_prompts(["bright <things>", "dark things"])


class Checked(HTMLParser):
    """Fails where an element is closed that is not the last one opened."""

    def __init__(self) -> None:
        super().__init__()
        self.opened: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in ("meta", "img"):
            self.opened.append(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.opened.pop() == tag


def read(path: Path) -> str:
    text = re.sub(r"\n(?=<t[dhr])", "", path.read_text("utf-8"))
    checked = Checked()
    checked.feed(text)
    assert checked.opened == [] and "http" not in text
    return text


def pictures(text: str) -> list[np.ndarray]:
    from matplotlib.image import imread

    found = re.findall(r"alt='slice[^']*'\s+src='data:[^,]*;base64,([^']+)'", text)
    return [imread(io.BytesIO(base64.b64decode(data)), "png") for data in found]


def result(**changes: object) -> RunResult:
    grey = np.full((8, 40, 20), 100, np.uint8)
    grey[:, :, 10:] = 101
    labels = np.zeros(grey.shape, np.uint8)
    labels[2:4, 5:15, 5:15] = 1
    labels[5, 30:34, 2:6] = 2
    labels[7, 0, 0] = 2
    unit = ("micrometer",) * 3
    volume = Volume(grey, ("z", "y", "x"), (2.0, 0.5, 1.0), unit, (0.0,) * 3, "a")
    existence = np.full((2, 8), 0.25, np.float32)
    existence[0, 3], existence[1, :2] = 0.875, np.nan
    known = {
        "existence": existence,
        "threshold": 0.5,
        "facts": {"Parameters": {"seed": 3, "tile": None, "prompt": "<b>"}},
    }
    known |= {"labels": labels, **changes}
    return RunResult("Segmentation of a", volume, prompts=PROMPTS, **known)  # type: ignore[arg-type]


def test_everything_is_on_the_page(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    write_report(path, result())
    text = read(path)
    assert "bright &lt;things&gt;" in text and "&lt;b&gt;" in text
    cells = "bright &lt;things&gt;</td><td>1</td><td>2</td><td>2 to 3</td>"
    assert cells + "<td>0.875 (3)</td><td>200</td>" in text
    assert "3 connected components, in micrometer" in text
    assert "<td>seed</td><td>3</td>" in text and "<td>tile</td>" not in text
    colors = [html_color(label) for label in (1, 2)]
    assert re.findall(r"'background:(#\w+)'", text) == colors


def test_existence_is_plotted_where_it_is_known() -> None:
    axes = existence_plot(result()).axes[0]
    threshold, *lines = axes.get_lines()
    assert threshold.get_linestyle() == "--" and set(threshold.get_ydata()) == {0.5}
    assert [len(line.get_xdata()) for line in lines] == [8, 6]
    assert lines[0].get_ydata()[3] == 0.875 and lines[1].get_xdata()[0] == 2
    assert [line.get_color() for line in lines] == [html_color(1), html_color(2)]
    assert len(existence_plot(result(threshold=None)).axes[0].get_lines()) == 2


@pytest.mark.parametrize(
    "text",
    [
        "</title><script>alert(1)</script>",
        "' onerror='alert(1)",
        "{{ 6 * 7 }}",
        "$\\frac$",
    ],
)
def test_hostile_prompts_are_shown_as_they_are(text: str, tmp_path: Path) -> None:
    prompts = parse_prompts([text, "dark things"])
    shown = replace(result(), name=text, prompts=prompts, facts={text: {text: text}})
    write_report(tmp_path / "page.html", shown)
    page = read(tmp_path / "page.html")
    assert "<script" not in page and "' onerror" not in page
    assert page.count(str(escape(text))) >= 8  # also in what is read aloud


def test_pictures_have_the_aspect_of_the_voxels_and_the_labels_colour(
    tmp_path: Path,
) -> None:
    write_report(tmp_path / "page.html", result())
    text = read(tmp_path / "page.html")
    assert len(pictures(text)) == 6
    captions = re.findall(r"<figcaption>(slice \d+: [^<]*)", text)
    shown = dict(zip(captions, pictures(text), strict=True))
    picture = shown["slice 2: bright &lt;things&gt;"]
    height, width = picture.shape[:2]
    assert width / height == pytest.approx(1.0, abs=0.01)  # 20 um high and wide
    inside = picture[height // 4, width // 2, :3] * 255
    outside = picture[-1, 0, :3] * 255
    blend = 0.55 * outside + 0.45 * np.array(label_colour(1)[:3])
    assert np.ptp(outside) < 1 and np.abs(inside - blend).max() < 120
    assert inside.argmax() == np.argmax(label_colour(1)[:3])
    assert any("nothing found" in caption for caption in captions)


def test_separated_objects_are_listed_with_their_prompt(
    tmp_path: Path,
) -> None:
    objects = np.zeros((8, 40, 20), np.int32)
    labels = np.asarray(result().labels)
    objects[labels == 1] = 5
    objects[labels == 2] = 9
    write_report(tmp_path / "page.html", result(instances=objects, existence=None))
    text = read(tmp_path / "page.html")
    assert "2 objects, in micrometer" in text and "Existence</h2>" not in text
    assert re.search(r"<td>5</td><td class='words'>bright [^<]*</td><td>200</td>", text)


def test_nothing_found(tmp_path: Path) -> None:
    empty = np.zeros((8, 40, 20), np.uint8)
    write_report(tmp_path / "page.html", result(labels=empty))
    text = read(tmp_path / "page.html")
    assert "<p>None.</p>" in text and text.count("<figcaption>slice") == 6
    assert text.count(": nothing found</figcaption>") == 6


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    grey = np.random.default_rng(0).integers(0, 255, (5, 48, 40), np.uint8)
    path = tmp_path_factory.mktemp("image") / "stack.tif"
    tifffile.imwrite(path, grey, photometric="minisblack", metadata={"axes": "ZYX"})
    return path


def test_of_a_runs_folder(file: Path, tmp_path: Path) -> None:
    segment_to_folder(file, PROMPTS, tmp_path / "run", "tiny", device="cpu")
    path = report_run(tmp_path / "run")
    assert path == tmp_path / "run" / REPORT
    text = read(path)
    assert "Segmentation of stack" in text and str(file) in text
    assert "tiny" in text and "existence threshold" in text
    assert 4 <= len(pictures(text)) <= 5
    segment_to_folder(  # the page is no obstacle to going on
        file, PROMPTS, tmp_path / "run", "tiny", device="cpu"
    )


@pytest.mark.parametrize("kind", ["consensus", "series"])
def test_of_a_consensus_and_of_a_series(kind: str, file: Path, tmp_path: Path) -> None:
    image = tifffile.imread(file)
    if kind == "series":
        image = np.stack([image, image[::-1]])
        path = tmp_path / "series.tif"
        axes = {"axes": "TZYX"}
        tifffile.imwrite(path, image, photometric="minisblack", metadata=axes)
    else:
        path = file
    segment_to_folder(
        path,
        PROMPTS,
        tmp_path / "run",
        "tiny",
        device="cpu",
        consensus=kind == "consensus",
    )
    text = read(report_run(tmp_path / "run", tmp_path / "page.html"))
    assert 4 <= len(pictures(text)) <= 5
    if kind == "series":
        with pytest.raises(OptionError, match="no time point 2; choose one of 0 to 1"):
            report_run(tmp_path / "run", time=2)


def test_a_run_on_an_array_needs_the_array(file: Path, tmp_path: Path) -> None:
    grey = tifffile.imread(file)
    segment_to_folder(grey, PROMPTS, tmp_path / "run", "tiny", device="cpu")
    with pytest.raises(OptionError, match="give the volume as well"):
        report_run(tmp_path / "run")
    assert read(report_run(tmp_path / "run", volume=grey))
    with pytest.raises(FormatError):
        report_run(tmp_path)
