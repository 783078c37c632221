"""The real model process: the same labels as in this process, and a kept model."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile

import dask.array as da
import numpy as np
import pytest
from tiny_v1 import tiny_v1

from napari_biomedparse.data.options import SegmentOptions
from napari_biomedparse.data.prompts import parse_prompts
from napari_biomedparse.data.results import SegmentedSlices
from napari_biomedparse.data.volume import as_volume
from napari_biomedparse.errors import CheckpointError, DeviceError, OptionError
from napari_biomedparse.networks.checkpoint import save_weights
from napari_biomedparse.pipeline.recognize import TARGETS, recognize
from napari_biomedparse.pipeline.segment import segment
from napari_biomedparse.process import Session
from napari_biomedparse.process.messages import (
    Counted,
    Instances,
    Planned,
    PreviewRequest,
    Recognized,
    SegmentRequest,
    Status,
    Warned,
)
from napari_biomedparse.samples import TITLES, make_phantom

PROMPTS = parse_prompts(["nuclei", "mitochondria in electron microscopy"])


@pytest.fixture(scope="module")
def session():
    session = Session()
    yield session
    session.close()


@pytest.fixture(scope="module")
def grey():
    return np.random.default_rng(1).integers(0, 3000, (7, 64, 48), dtype=np.uint16)


def start(session, volume, options, **how):
    how = {"prompts": PROMPTS, "model": "tiny", "device": "cpu", **how}
    volume = as_volume(volume)
    return session.start(SegmentRequest(volume=volume, options=options, **how))


def run(session, volume, options, **how):
    return list(start(session, volume, options, **how))


@pytest.mark.parametrize("kind", ["numpy", "dask"])
def test_labels_and_scores_are_those_of_python(session, grey, kind):
    options = SegmentOptions(seed=3, batch_size=2)
    data = grey if kind == "numpy" else da.from_array(grey, chunks=(3, 64, 48))
    events = run(session, data, options)
    expected = segment(grey, PROMPTS, "tiny", options, device="cpu")
    (plan,) = [event for event in events if isinstance(event, Planned)]
    labels = np.zeros(grey.shape, np.uint8)
    existence = np.zeros_like(expected.existence)
    for event in events:
        if isinstance(event, SegmentedSlices):
            labels[event.where] = event.labels
            existence[:, event.start : event.stop] = event.existence
    np.testing.assert_array_equal(labels, expected.labels)
    np.testing.assert_array_equal(existence, expected.existence)
    assert {**plan.parameters, "device": None} == {
        **expected.parameters,
        "device": None,
    }
    assert "become 0 to 255" in plan.parameters["intensity"]


def test_what_is_not_known_of_the_voxels_is_told(session):
    grey = np.asarray(make_phantom("light-sheet", 7, targets=("nuclei",)).volume.data)
    options = SegmentOptions(instances=True, separate_by="shape")
    how = {"model": "demo", "prompts": parse_prompts([TITLES["nuclei"]])}
    events = run(session, grey, options, **how)
    (warned,) = [event for event in events if isinstance(event, Warned)]
    assert "The voxel size is not known" in warned.text
    (objects,) = [event for event in events if isinstance(event, Instances)]
    expected = segment(grey, TITLES["nuclei"], "demo", options, device="cpu")
    np.testing.assert_array_equal(objects.labels, expected.instances)


def test_objects_come_last_with_their_owners(session, grey):
    events = run(session, grey, SegmentOptions(instances=True))
    expected = segment(grey, PROMPTS, "tiny", device="cpu", instances=True)
    (objects,) = [event for event in events if isinstance(event, Instances)]
    assert events[-1] is objects
    np.testing.assert_array_equal(objects.labels, expected.instances)
    assert objects.owners[0] == 0
    for number, owner in enumerate(objects.owners[1:], start=1):
        assert owner in expected.labels[objects.labels == number]


def test_the_model_is_loaded_once(session, grey):
    run(session, grey, SegmentOptions(slices=(0, 1)))
    pid = session.pid
    events = run(session, grey, SegmentOptions(slices=(1, 2), seed=9))
    assert session.pid == pid
    assert not any(
        isinstance(event, Status) and "Loading" in event.text for event in events
    )


def test_prompt_cut_at_77_tokens_is_told(session, grey):
    prompts = parse_prompts(["nuclei " * 100])
    events = run(session, grey, SegmentOptions(slices=(0, 1)), prompts=prompts)
    (plan,) = [event for event in events if isinstance(event, Planned)]
    assert plan.truncated == prompts.texts


@pytest.mark.parametrize(
    ("options", "how", "error"),
    [
        (SegmentOptions(slices=(3, 99)), {}, OptionError),
        (SegmentOptions(), {"device": "abacus"}, DeviceError),
        (SegmentOptions(), {"model": "/no/such/weights.pt"}, CheckpointError),
    ],
)
def test_errors_keep_their_kind(session, grey, options, how, error):
    with pytest.raises(error):
        run(session, grey, options, **how)


def test_scores_on_disk_go_with_the_process(grey, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for end in ("close", "kill", "parent"):
        session = Session()
        run(session, grey, SegmentOptions(slices=(0, 2)))
        assert list(tmp_path.rglob("*.npz"))
        process = session._process
        if end == "close":
            session.close()
        elif end == "kill":
            os.kill(session.pid, signal.SIGKILL)
            process._listening.join()
        else:
            # What the end of this process does.
            end = os.dup(process._channel._connection.fileno())
            with socket.socket(fileno=end) as ours:
                ours.shutdown(socket.SHUT_WR)
            process._listening.join()
        assert list(tmp_path.glob("*/*")) == []
        session.close()


def test_nothing_but_this_process_keeps_it_alive(session, grey):
    run(session, grey, SegmentOptions(slices=(0, 1)))
    pid = session.pid
    session.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def labels_of(events, shape):
    labels = np.zeros(shape, np.uint8)
    for event in events:
        if isinstance(event, SegmentedSlices):
            labels[event.where] = event.labels
    return labels


def test_a_preview_is_a_slice_of_the_run(session, grey):
    expected = segment(grey, PROMPTS, "tiny", device="cpu").labels
    events = session.start(
        PreviewRequest(
            volume=as_volume(grey),
            prompts=PROMPTS,
            options=SegmentOptions(),
            index=4,
            model="tiny",
            device="cpu",
            probabilities=True,
        )
    )
    *_, found = events
    np.testing.assert_array_equal(found.slices.labels, expected[4:5])
    assert found.probabilities.shape == (1, 64, 48)
    inside = found.slices.labels > 0
    assert (found.probabilities[inside] > 0.5).all()


def test_the_slice_in_view_comes_first_and_done_ones_not_again(session, grey):
    expected = segment(grey, PROMPTS, "tiny", device="cpu").labels
    events = run(session, grey, SegmentOptions(), front=5, done=((0, 2),))
    (plan,) = [event for event in events if isinstance(event, Planned)]
    starts = [e.start for e in events if isinstance(e, SegmentedSlices)]
    assert plan.kept == ((0, 2),)
    assert starts == [5, 4, 6, 3, 2]
    np.testing.assert_array_equal(labels_of(events, grey.shape)[2:], expected[2:])


def test_other_thresholds_and_objects_without_the_network(session, grey):
    first = start(session, grey, SegmentOptions())
    scores = np.concatenate(
        [e.existence for e in first if isinstance(e, SegmentedSlices)], axis=1
    )
    middle = float(np.median(scores))
    changed = SegmentOptions(existence_threshold=middle, instances=True)
    events = run(
        session, grey, changed, done=((0, 7),), earlier=first.number, again=True
    )
    expected = segment(grey, PROMPTS, "tiny", changed, device="cpu")
    np.testing.assert_array_equal(labels_of(events, grey.shape), expected.labels)
    (objects,) = [event for event in events if isinstance(event, Instances)]
    np.testing.assert_array_equal(objects.labels, expected.instances)


def test_a_series_keeps_the_scores_of_all_time_points(grey, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    session, volumes, numbers = Session(), (grey, grey[::-1]), []

    def written():
        return {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.npz")}

    for volume in volumes:
        first = start(session, volume, SegmentOptions(), beside=2)
        assert sum(isinstance(event, SegmentedSlices) for event in first) == 7
        numbers.append(first.number)
    before = written()
    assert len(before) == 2 * 7
    changed = SegmentOptions(existence_threshold=0.6)
    for volume, number in zip(volumes, numbers, strict=True):
        how = {"done": ((0, 7),), "earlier": number, "again": True, "beside": 2}
        events = run(session, volume, changed, **how)
        expected = segment(volume, PROMPTS, "tiny", changed, device="cpu").labels
        np.testing.assert_array_equal(labels_of(events, grey.shape), expected)
    assert written() == before  # the network would have said it anew
    run(session, grey, SegmentOptions(slices=(0, 1)))
    assert len(written()) == 1
    session.close()


def test_a_resumed_run_tells_objects_of_all_slices_apart(session, grey):
    options = SegmentOptions(instances=True)
    first = start(session, grey, options)
    seen = 0
    for event in first:
        seen += isinstance(event, SegmentedSlices)
        if seen == 3:
            break
    first.close()
    first.stopped.wait(60)
    events = run(session, grey, options, done=((0, 3),), earlier=first.number)
    expected = segment(grey, PROMPTS, "tiny", options, device="cpu")
    (objects,) = [event for event in events if isinstance(event, Instances)]
    np.testing.assert_array_equal(objects.labels, expected.instances)
    (plan,) = [event for event in events if isinstance(event, Planned)]
    assert plan.kept == ((0, 3),)
    # A process that lost the scores does all again.
    session.close()
    events = run(session, grey, options, done=((0, 3),), earlier=first.number)
    (plan,) = [event for event in events if isinstance(event, Planned)]
    assert plan.kept == ()
    (objects,) = [event for event in events if isinstance(event, Instances)]
    np.testing.assert_array_equal(objects.labels, expected.instances)


def test_grey_levels_of_a_volume_are_looked_at_once(session, grey):
    session.close()  # what other tests did is forgotten
    said = [run(session, grey[:], SegmentOptions(slices=(0, 1))) for _ in range(2)]
    looked = [
        any(isinstance(e, Status) and "grey levels" in e.text for e in events)
        for events in said
    ]
    assert looked == [True, False]


def test_what_other_runs_need_is_not_imported_at_the_start():
    code = """
import sys
import napari_biomedparse.process.worker
rare = ("torch", "napari_biomedparse.runs", "napari_biomedparse.training")
print([name for name in sys.modules if name.startswith(rare)])
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, check=True, text=True)
    assert done.stdout.strip() == "[]"


def test_recognition_counts_its_targets(session, tmp_path):
    model, path = tiny_v1(), tmp_path / "small.safetensors"
    save_weights(path, model.state_dict(), config=model.config)
    volume = np.random.default_rng(3).integers(0, 256, (4, 50, 70), np.uint8)
    kind = "MRI-T1-Gd-Brain"
    how = {"model": str(path), "kind": kind}
    how["prompts"] = parse_prompts(list(TARGETS[kind]))
    options = SegmentOptions(slices=(2, 3), prompts_apart=True)
    events = run(session, volume, options, **how)
    expected = recognize(volume[2], kind, model, device="cpu")
    (plan,) = [event for event in events if isinstance(event, Planned)]
    assert (plan.total, plan.parameters["recognized"]) == (2, kind)
    counts = [event for event in events if isinstance(event, Counted)]
    assert counts == [Counted(1, 2), Counted(2, 2)]
    labels, found = events[-2:]
    assert (labels.start, labels.stop, labels.axis) == (2, 3, 0)
    np.testing.assert_array_equal(labels.labels, expected.labels[None])
    np.testing.assert_allclose(labels.existence[:, 0], expected.p_values)
    assert found == Recognized(expected.p_values, expected.outcomes)
    with pytest.raises(OptionError, match="Recognition needs BiomedParse v1"):
        run(session, volume, options, **{**how, "model": "tiny"})
