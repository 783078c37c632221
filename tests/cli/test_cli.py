"""The command line: the same labels as Python, and errors people understand."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import version

import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner

from napari_biomedparse import cli
from napari_biomedparse.cli import _show
from napari_biomedparse.io import open_file
from napari_biomedparse.networks import weights
from napari_biomedparse.pipeline.segment import segment

PROMPT = "mitochondria in electron microscopy"


@pytest.fixture
def stack(tmp_path):
    """A TIFF of 5 slices, 0.5 x 0.25 x 0.25 micrometer."""
    path = tmp_path / "stack.tif"
    grey = np.random.default_rng(1).integers(0, 255, (5, 64, 48), dtype=np.uint8)
    tifffile.imwrite(
        path,
        grey,
        imagej=True,
        resolution=(4, 4),
        metadata={"axes": "ZYX", "spacing": 0.5, "unit": "um"},
    )
    return path


@pytest.fixture
def run(monkeypatch):
    """Run a command and return its result; messages of both streams in `output`."""
    monkeypatch.setenv("COLUMNS", "200")
    for console in (_show.out, _show.err):
        monkeypatch.setattr(console, "width", 200)

    def invoke(*arguments):
        return CliRunner().invoke(cli.app, [str(a) for a in arguments])

    return invoke


def test_a_demo_that_stands_in_says_so_twice(run, stack, tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "default_model", lambda: "demo")
    words = ["segment", stack, "-p", "liver", "--slices", "2:3", "-o"]
    result = run(*words, tmp_path / "a.tif")
    assert result.exit_code == 0, result.output
    note = "BiomedParse v2 is not on this computer, so the demo model is used."
    assert result.stderr.startswith(note)
    assert note in result.stdout.splitlines()[-1]
    assert "-m v2" in result.stderr
    assert "only 8 targets: cell membranes in electron microscopy" in result.stdout
    named = run(*words, tmp_path / "b.tif", "-m", "demo")
    assert note not in named.output
    assert "only 8 targets" in named.stdout


@pytest.mark.parametrize("ending", [".npz", ".tif", ".zarr"])
def test_labels_are_those_of_python(run, stack, tmp_path, ending):
    out = tmp_path / f"labels{ending}"
    result = run(
        "segment", stack, "-p", PROMPT, "-p", "nuclei", "-o", out, "-m", "tiny"
    )
    assert result.exit_code == 0, result.output
    expected = segment(tifffile.imread(stack), [PROMPT, "nuclei"], "tiny")
    (labels,) = open_file(out).labels or open_file(out).images
    volume = getattr(labels, "volume", labels)
    np.testing.assert_array_equal(np.asarray(volume.data), expected.labels)
    assert PROMPT in result.stdout
    assert str(out) in result.stdout
    if ending != ".npz":
        assert volume.spacing == pytest.approx((0.5, 0.25, 0.25))


def test_options_reach_the_run(run, stack, tmp_path):
    out = tmp_path / "labels.npz"
    result = run(
        *("segment", stack, "-p", PROMPT, "-o", out, "-m", "tiny", "--slices", "1:3"),
        *("--seed", 5, "--batch-size", 1, "--instances", "--device", "cpu"),
    )
    assert result.exit_code == 0, result.output
    expected = segment(
        tifffile.imread(stack), [PROMPT], "tiny", seed=5, slices=(1, 3), instances=True
    )
    np.testing.assert_array_equal(np.load(out)["segs"], expected.instances)


def test_prompts_come_from_the_file(run, shared, tmp_path):
    path = shared / "data" / "challenge_npz" / "imgs" / "CT_AMOS_amos_0018.npz"
    out = tmp_path / "labels.npz"
    result = run("segment", path, "-o", out, "-m", "tiny", "--slices", "30:31")
    assert result.exit_code == 0, result.output
    assert "Abdominal CT showing the left kidney" in result.stdout


def test_info(run, shared):
    path = shared / "data" / "challenge_npz" / "imgs" / "CT_AMOS_amos_0018.npz"
    result = run("info", path)
    assert result.exit_code == 0
    assert "z:63 y:512 x:512" in result.stdout
    assert "z 5, y 0.846" in result.stdout
    assert "Abdominal CT showing the left kidney" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["-p", "nuclei", "-o", "{tmp}/no/x.npz"], 1, "does not exist"),
        (["-p", "nuclei", "-o", "{tmp}/stack.tif"], 1, "never replaced"),
        (["-p", "nuclei", "-o", "{tmp}/x.jpg"], 2, "choose one of"),
        (["-p", " ", "-o", "{tmp}/x.npz"], 1, "empty"),
        (["-o", "{tmp}/x.npz"], 1, "no prompts"),
        (["-p", "nuclei", "-o", "{tmp}/x.npz", "--modality", "xray"], 2, "ultrasound"),
        (["-p", "nuclei", "-o", "{tmp}/x.npz", "--slices", "3"], 2, "10:20"),
        (["-p", "nuclei", "-o", "{tmp}/x.npz", "--slices", "3:9"], 2, "5 slices"),
        (["-p", "nuclei", "-o", "{tmp}/x.npz", "--device", "abacus"], 1, "abacus"),
        (["-p", "nuclei", "-o", "{tmp}/x.npz", "-m", "none.pt"], 1, "none.pt"),
        (["-p", "nuclei"], 2, "--output"),
    ],
)
def test_bad_input_is_explained(run, stack, tmp_path, arguments, code, message):
    given = [a.format(tmp=tmp_path) for a in arguments]
    if "-m" not in given:
        given += ["-m", "tiny"]
    result = run("segment", stack, *given)
    assert result.exit_code == code
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["stack.tif"]


def test_output_is_refused_before_computing(run, stack, tmp_path, monkeypatch):
    monkeypatch.setattr(
        cli.segment, "run_to_file", lambda *_, **__: pytest.fail("computed")
    )
    result = run("segment", stack, "-p", PROMPT, "-o", stack)
    assert result.exit_code == 1
    assert "never replaced" in result.stderr
    result = run("segment", stack, "-p", PROMPT, "-o", tmp_path / "x.jpg")
    assert result.exit_code == 2


def test_overwrite(run, stack, tmp_path):
    out = tmp_path / "labels.npz"
    out.write_bytes(b"old")
    result = run("segment", stack, "-p", PROMPT, "-o", out, "-m", "tiny", "--overwrite")
    assert result.exit_code == 0, result.output
    assert "segs" in np.load(out)


def test_interruption(run, stack, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.segment, "run_to_file", interrupted)
    result = run("segment", stack, "-p", PROMPT, "-o", tmp_path / "x.npz")
    assert result.exit_code == 130
    assert "nothing was written" in result.stderr
    monkeypatch.setattr(cli.segment, "run_to_folder", interrupted)
    result = run("segment", stack, "-p", PROMPT, "-o", tmp_path / "run")
    assert result.exit_code == 130
    assert "finished blocks are kept" in result.stderr


def test_help_is_quick():
    code = (
        "import sys\n"
        "from napari_biomedparse.cli import app\n"
        "try:\n"
        "    app(['segment', '--help'])\n"
        "except SystemExit as end:\n"
        "    assert not end.code\n"
        "assert not {'torch', 'napari', 'qtpy'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "What to find" in done.stdout


def test_a_run_in_a_folder_and_again(run, stack, tmp_path):
    out = tmp_path / "run"
    given = ("segment", stack, "-p", PROMPT, "-o", out, "-m", "tiny")
    for _ in range(2):
        result = run(*given)
        assert result.exit_code == 0, result.output
        assert PROMPT in result.stdout
    (labels,) = open_file(out / "labels.ome.zarr").labels
    expected = segment(tifffile.imread(stack), [PROMPT], "tiny")
    np.testing.assert_array_equal(np.asarray(labels.volume.data), expected.labels)
    result = run("reproduce", out / "manifest.json", "-o", tmp_path / "again")
    assert result.exit_code == 0, result.output
    assert "to the bit" in result.stdout
    tifffile.imwrite(tmp_path / "other.tif", 255 - tifffile.imread(stack))
    other = ("--volume", tmp_path / "other.tif")
    result = run("reproduce", out / "manifest.json", "-o", tmp_path / "b", *other)
    assert result.exit_code == 1
    assert "have other labels" in result.output
    assert "to the bit" not in result.output
    result = run(*given, "--seed", 4)
    assert result.exit_code == 1
    assert "parameters.seed was 0 and is 4" in result.output


def test_a_folder_of_files(run, stack, tmp_path):
    (tmp_path / "broken.tif").write_text("no TIFF")
    out = tmp_path / "out"
    given = ("segment", tmp_path / "*.tif", "-p", PROMPT, "-o", out, "-m", "tiny")
    result = run(*given)
    assert result.exit_code == 1
    assert "1 done, 0 finished before, 1 failed" in result.stdout
    assert "broken.tif" in result.output
    assert (out / "summary.csv").is_file()
    assert "--continue" in run(*given).output
    assert "0 done, 1 finished before, 1 failed" in run(*given, "--continue").stdout


def test_files_are_not_continued(run, stack, tmp_path):
    out = tmp_path / "labels.npz"
    result = run("segment", stack, "-p", PROMPT, "-o", out, "--workers", 2)
    assert result.exit_code == 2
    assert "without extension" in result.output


def saved(path):
    """Voxels and axes of the labels in a file."""
    (labels,) = open_file(path).labels
    return np.asarray(labels.volume.data), labels.volume.axes


@pytest.mark.parametrize("ending", [".tif", ".zarr", ".nii.gz"])
def test_a_series_of_two_channels(run, tmp_path, ending):
    values = np.random.default_rng(1).integers(0, 255, (3, 2, 4, 40, 30), np.uint8)
    path, out = tmp_path / "series.ome.tif", tmp_path / f"labels{ending}"
    channels = {"Name": ["membrane", "nuclei"]}
    metadata = {"axes": "TCZYX", "Channel": channels}
    tifffile.imwrite(path, values, ome=True, metadata=metadata)
    common = ("segment", path, "-p", PROMPT, "-m", "tiny", "-o", out)
    refused = run(*common)
    assert refused.exit_code == 1
    assert "2 channels and no channel was chosen" in refused.output
    result = run(*common, "--channel", "nuclei")
    assert result.exit_code == 0, result.output
    expected = segment(values, PROMPT, "tiny", channel=1)
    labels, axes = saved(out)
    assert axes == ("t", "z", "y", "x")
    np.testing.assert_array_equal(labels, expected.labels)
    folder = tmp_path / "folder"
    whole = run(*common[:-1], folder, "--channel", "nuclei")
    assert whole.exit_code == 0, whole.output
    assert "time points" in whole.output
    labels, axes = saved(folder / "labels.ome.zarr")
    assert axes == ("t", "z", "y", "x")
    np.testing.assert_array_equal(labels, expected.labels)
    one = run(*common, "--channel", "1", "--time", "2", "--overwrite")
    assert one.exit_code == 0, one.output
    np.testing.assert_array_equal(saved(out)[0], expected.labels[2])


@pytest.mark.parametrize("shape", [(40, 30), (40, 30, 3), (5, 40, 30, 3)])
def test_single_images_and_colours(run, tmp_path, shape):
    values = np.random.default_rng(1).integers(0, 255, shape, np.uint8)
    path, out = tmp_path / "image.tif", tmp_path / "labels.tif"
    photometric = "rgb" if shape[-1] == 3 else "minisblack"
    tifffile.imwrite(path, values, photometric=photometric)
    result = run("segment", path, "-p", PROMPT, "-m", "tiny", "-o", out)
    assert result.exit_code == 0, result.output
    expected = segment(values, PROMPT, "tiny")
    np.testing.assert_array_equal(saved(out)[0], expected.labels)


def test_a_consensus(run, tmp_path):
    values = np.random.default_rng(1).integers(0, 255, (20, 24, 22), np.uint8)
    even, out = tmp_path / "even.npz", tmp_path / "labels.tif"
    np.savez(even, imgs=values, spacing=[1.0, 1.0, 1.0])
    result = run("segment", even, "-p", PROMPT, "-m", "tiny", "-o", out, "--consensus")
    assert result.exit_code == 0, result.output
    expected = segment(values, PROMPT, "tiny", consensus=True)
    np.testing.assert_array_equal(saved(out)[0], expected.labels)
    assert "existence along y" in result.output
    flat = tmp_path / "flat.npz"
    np.savez(flat, imgs=values, spacing=[1.0, 1.0, 5.0])
    common = ("segment", flat, "-p", PROMPT, "-m", "tiny", "-o", out, "--consensus")
    refused = run(*common, "--overwrite")
    assert refused.exit_code == 1
    assert "is not isotropic" in refused.output
    assert run(*common, "--overwrite", "--force").exit_code == 0
    folder = tmp_path / "folder"
    result = run(
        *("segment", even, "-p", PROMPT, "-m", "tiny"), "-o", folder, "--consensus"
    )
    assert result.exit_code == 0, result.output
    assert "existence along y" in result.output
    labels, _ = saved(folder / "labels.ome.zarr")
    np.testing.assert_array_equal(labels, expected.labels)


def test_slices_of_one_volume(run, tmp_path):
    values = np.random.default_rng(1).integers(0, 255, (11, 40, 30), np.uint8)
    (tmp_path / "in").mkdir()
    for i, plane in enumerate(values):
        tifffile.imwrite(tmp_path / "in" / f"{i}.tif", plane)
    common = ("-p", PROMPT, "-m", "tiny", "--stack")
    result = run("segment", tmp_path / "in", *common, "-o", tmp_path / "run")
    assert result.exit_code == 0, result.output
    expected = segment(values, PROMPT, "tiny")
    labels, _ = saved(tmp_path / "run" / "labels.ome.zarr")
    np.testing.assert_array_equal(labels, expected.labels)
    out = tmp_path / "labels.tif"
    result = run("segment", tmp_path / "in" / "*.tif", *common, "-o", out)
    assert result.exit_code == 0, result.output
    np.testing.assert_array_equal(saved(out)[0], expected.labels)
    two = (tmp_path / "in" / "0.tif", tmp_path / "in" / "1.tif")
    refused = run("segment", *two, *common, "-o", out)
    assert refused.exit_code == 2
    assert "a quoted pattern" in refused.output
    refused = run("segment", tmp_path / "in", *common[:-1], "-o", tmp_path / "b.tif")
    assert (refused.exit_code, "add --stack" in refused.output) == (2, True)


def test_a_dry_run(run, stack, tmp_path):
    out = tmp_path / "run"
    given = ("segment", stack, "-p", PROMPT, "-m", "tiny", "-o", out, "--dry-run")
    result = run(*given)
    assert result.exit_code == 0, result.output
    assert f"{stack}: about " in result.stdout
    assert "GB on disk" in result.stdout
    assert not out.exists()
    (tmp_path / "second.tif").write_bytes(stack.read_bytes())
    result = run("segment", tmp_path, *given[2:])
    assert result.exit_code == 0, result.output
    assert "Together: about" in result.stdout
    assert not out.exists()


def test_doctor(run):
    result = run("doctor")
    assert result.exit_code == 0, result.output
    assert "torch: " in result.output
    assert "Free disk" in result.output


def test_a_region_lies_in_place(run, stack, tmp_path):
    out = tmp_path / "labels.ome.zarr"
    common = ("-p", PROMPT, "-m", "tiny", "-o", out)
    result = run("segment", stack, *common, "--region", "y=8:56,x=4:40")
    assert result.exit_code == 0, result.output
    expected = segment(tifffile.imread(stack)[:, 8:56, 4:40], PROMPT, "tiny")
    (labels,) = open_file(out).labels
    np.testing.assert_array_equal(labels.volume.data, expected.labels)
    assert labels.volume.origin == (0.0, 2.0, 1.0)
    result = run("segment", stack, *common, "--region", "y=8:99", "--overwrite")
    assert result.exit_code == 1
    assert "64 positions along axis 'y', but the range is 8 to 99" in result.output


def test_separate_labels_are_a_file_each(run, stack, tmp_path):
    out = tmp_path / "a.b.ome.zarr"
    common = ("-p", PROMPT, "-p", "nuclei", "-m", "tiny", "-o", out)
    more = ("--overlaps", "separate", "--instances", "--minimum-size", "5")
    result = run("segment", stack, *common, *more)
    assert result.exit_code == 0, result.output
    expected = segment(
        tifffile.imread(stack),
        [PROMPT, "nuclei"],
        "tiny",
        overlaps="separate",
        instances=True,
        minimum_size=5,
    )
    for label, objects in enumerate(expected.instances, start=1):
        path = tmp_path / f"a.b_{label}.ome.zarr"
        (labels,) = open_file(path).labels
        np.testing.assert_array_equal(labels.volume.data, objects)
    again = run("segment", stack, *common, *more)
    assert again.exit_code == 1
    assert "a.b_1.ome.zarr exists already" in again.output


def test_a_region_of_a_series_lies_in_place(run, tmp_path):
    path, out = tmp_path / "series.ome.tif", tmp_path / "labels.ome.zarr"
    values = np.random.default_rng(1).integers(0, 255, (2, 3, 40, 44), dtype=np.uint8)
    tifffile.imwrite(path, values, metadata={"axes": "TZYX"}, ome=True)
    common = ("-p", PROMPT, "-m", "tiny", "-o", out)
    result = run("segment", path, *common, "--region", "x=4:40,z=1:3")
    assert result.exit_code == 0, result.output
    expected = segment(values[:, None, 1:, :, 4:40], PROMPT, "tiny")
    (labels,) = open_file(out).labels
    np.testing.assert_array_equal(labels.volume.data, expected.labels)
    assert labels.volume.origin == (0.0, 1.0, 0.0, 4.0)


@pytest.mark.parametrize("ending", ["", ".npz"])
def test_an_empty_result_is_explained_with_what_undoes_it(run, stack, tmp_path, ending):
    out = tmp_path / f"labels{ending}"
    common = ("segment", stack, "-p", PROMPT, "-m", "tiny", "-o", out)
    result = run(*common, "--existence-threshold", "1.0")
    assert result.exit_code == 0, result.output
    assert "Nothing was found" in result.output
    (flag, value) = re.search(
        r"Lower the existence threshold.*\((--existence-threshold) (0\.\d+)\)",
        result.output,
    ).groups()
    again = run(*common, flag, value, "--overwrite")
    assert again.exit_code == 0, again.output
    assert "Nothing was found" not in again.output


def test_the_version(run):
    result = run("--version")
    assert result.exit_code == 0
    assert result.stdout == f"napari-biomedparse {version('napari-biomedparse')}\n"


def test_help_names_the_formats_and_commands_there_are(run):
    for name in (".npz", ".tiff", ".nii.gz", ".zarr", "pattern"):
        assert name in run("info", "--help").output
    text = run("report", "--help").output
    assert "segment -o FOLDER" in text
    assert "--run-folder" not in text


def test_an_interruption_of_the_imports_is_not_a_traceback() -> None:
    script = (
        "import builtins, signal, os\n"
        "find = builtins.__import__\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # not ignored
        "def slow(name, *more):\n"
        "    if name == 'typer': os.kill(os.getpid(), signal.SIGINT)\n"
        "    return find(name, *more)\n"
        "builtins.__import__ = slow\n"
        "import napari_biomedparse.cli\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (130, "")
