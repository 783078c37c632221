"""What the tests of faults share: small blocks, and a run that nothing disturbs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from faults.volumes import do_run, make_volume, small_blocks

from napari_biomedparse.networks.v2.biomedparse import BiomedParse
from napari_biomedparse.runs.folder import Run


@pytest.fixture(autouse=True)
def blocks(monkeypatch: pytest.MonkeyPatch, one_thread: None) -> None:
    """Have small blocks, computed with one thread here and in other processes.

    Results are compared to the bit, and rounding depends on the number of threads.
    """
    small_blocks(monkeypatch.setattr)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: BiomedParse
) -> Run:
    """Do the run of which all others must have the labels."""
    folder = tmp_path_factory.mktemp("undisturbed")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        small_blocks(patch.setattr)
        run = do_run(make_volume(folder, "zarr"), folder / "run", tiny_model)
    torch.set_num_threads(threads)
    assert len(np.unique(np.asarray(run.labels))) > 1
    assert run.manifest.objects
    return run
