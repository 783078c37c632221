"""Separate objects of a run, made on disk from finished labels and edges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from napari_biomedparse.data.results import Owners
from napari_biomedparse.io.durable import writing
from napari_biomedparse.io.formats.ome_labels import LabelStore, create_labels
from napari_biomedparse.labels.blockwise import block_shape, scratch
from napari_biomedparse.labels.instances import OwnerTally
from napari_biomedparse.labels.watershed import split_slices
from napari_biomedparse.runs.folder import (
    COMPONENTS,
    OBJECTS,
    grid_volume,
    home_of,
    layout_of,
    object_layout,
)

if TYPE_CHECKING:
    from napari_biomedparse.pipeline.plan import RunPlan
    from napari_biomedparse.runs.manifest import Block, Manifest


def write_objects(
    folder: Path,
    plan: RunPlan,
    manifest: Manifest,
    stores: list[LabelStore],
    blocks: Mapping[int, Block],
) -> Manifest:
    """Separate objects on disk, from finished blocks of labels and edges.

    Returns the manifest with their number and owners.
    """
    labels, edges = stores
    layout, home = object_layout(labels.layout), home_of(folder, manifest)
    prompts = replace(plan.prompts, instance=True)
    with writing(folder):
        if home == folder:
            create_labels(folder / OBJECTS, layout, grid_volume(plan.volume), prompts)
        store = LabelStore(home / OBJECTS, layout, manifest.output.get("time", 0))
        chunks = layout.chunks(0)
        size = plan.options.minimum_size
        if plan.by_slices:
            count = split_slices(labels, store, layout.axis, layout.thickness, size)
        else:
            components = scratch(folder / COMPONENTS, layout.shape, chunks)
            block = block_shape(chunks, layout.shape)
            count = plan.divide(labels, edges, components, store, block, size)
        finest = 0 if store.journal.end else 1  # what a person changed goes on top
        scores = manifest.with_blocks(blocks).existence
        scores = scores[:, 0] if scores.ndim == 3 else scores  # of a consensus
        tally = OwnerTally(count, prompts.ids, scores, layout.axis)
        for start in range(0, layout.shape[layout.axis], layout.thickness):
            span = layout.block(start)
            instances = store.read(*span)
            outside = edges.read(*span)
            outside = outside * 0 if plan.by_shape else outside  # objects do not grow
            tally.add(instances, labels.read(*span), outside, start)
            store.write(start, instances, finest=finest)
        store.sync()
        if home == folder:
            store.name_objects(tally.owners)
            store.sync()
    return replace(manifest, objects=count, owners=tally.owners.describe())


def name_objects(folder: Path, manifest: Manifest) -> Manifest:
    """Record what objects with the same number have in common over time."""
    known = [Owners.parse(one.owners) for one in manifest.parts]
    owners = Owners.common([one for one in known if one is not None])
    if owners is None or None in known:
        return manifest
    store = LabelStore(folder / OBJECTS, object_layout(layout_of(manifest)))
    with writing(folder):
        store.name_objects(owners)
        store.sync()
    return replace(manifest, owners=owners.describe())
