"""Which instances of a bag are of which slide."""

from types import SimpleNamespace

import h5py
import numpy as np
import torch

from callbacks.mil.slide_parts import slide_parts, slide_source
from datamodules.mil.feature_set import FeatureFolder, FeatureSet
from formats.features import read_coords
from structures import BagBatch

BY_PATIENT = FeatureFolder(by_patient=True)


def stored(table, slide):
    """Return the coordinates in the file of a slide."""
    (file,) = (table.parent / "features").glob(f"{slide}.*")
    return read_coords(file)


def check(table, bags, number, batch, position=0):
    """Compare the parts of a bag with the files, row by row; return the slides."""
    start, end = batch.offsets[position : position + 2].tolist()
    numbers, parts = batch.numbers()[start:end].tolist(), slide_parts(bags, batch, position)
    owners = [(slide.name, row) for slide in bags.slides(number)
              for row in range(slide.header.instances)]  # fmt: skip
    told = [None] * len(numbers)
    for part in parts:
        for k, at in enumerate(range(part.rows.start, part.rows.stop)):
            place = None if part.coords is None else part.coords[k].tolist()
            told[at] = (part.slide, place)
    wanted = []
    for at in numbers:
        name, row = owners[at]
        places = stored(table, name)
        wanted.append((name, None if places is None else places[row].tolist()))
    assert told == wanted
    return [part.slide for part in parts]


def test_instances_are_those_of_their_slide(write_slides):
    table = write_slides(12, patient_id=list("ppqpqrrrqqss"), label=[0] * 10 + [1] * 2)
    bags = FeatureSet(table, BY_PATIENT)
    batch = BagBatch.collate([bags.bag(number) for number in (1, 0, 3)])
    assert batch.coords is None  # some of the slides are npy
    for position, number in enumerate((1, 0, 3)):
        check(table, bags, number, batch, position)
    kept = batch.keep(torch.arange(len(batch.features)) % 3 == 1)
    for position, number in enumerate((1, 0, 3)):
        check(table, bags, number, kept, position)
    first = batch.keep(batch.numbers() < 2)  # the other slides have no instance left
    assert check(table, bags, 0, first, 1) == ["s0"]
    with_places = FeatureSet(write_slides(8, name="b"), BY_PATIENT)
    assert with_places.bag(3).coords is not None
    check(with_places.path, with_places, 3, with_places.bag(3))


def test_a_slide_is_a_bag_of_one_part(write_slides):
    table = write_slides(4)
    bags = FeatureSet(table)
    batch = BagBatch.collate([bags.bag(number) for number in range(4)])
    assert [check(table, bags, n, batch, n) for n in range(4)] == [[f"s{n}"] for n in range(4)]


def test_micrometres_of_one_slide_leave_the_others_whole_numbers(write_slides):
    table = write_slides(8, patient_id=list("ppppqqqq"), label=[0] * 4 + [1] * 4)
    file = table.parent / "features/s1.h5"
    with h5py.File(file, "r+") as opened:
        places = opened["coords"][:] / 3
        del opened["coords"]
        opened["coords"] = places
    (table.parent / "features/s0.npy").unlink()
    np.save(table.parent / "features/s0.npy", np.ones((2, 4), np.float16))
    bags = FeatureSet(table, BY_PATIENT)
    parts = slide_parts(bags, bags.bag(0), 0)
    assert [None if p.coords is None else p.coords.dtype.kind for p in parts] == [
        None, "f", "i", "i",
    ]  # fmt: skip


def test_other_data_have_no_slides(stand_in):
    assert slide_source(None, "test") is None
    assert slide_source(SimpleNamespace(source=lambda split: object()), "test") is None
    assert slide_parts(None, stand_in.bag(1), 0) == ()
