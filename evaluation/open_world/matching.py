"""Greedy matching of detections to objects as in the COCO API, of all images at the same time.

In an image, detections take their turn by descending score. Each takes the free object of highest
overlap that counts, or else that does not count; at a threshold it is matched only if the overlap
reaches it, crowd regions are never used up, and of equal overlaps the last one in the file wins.
Images do not depend on each other, so the n-th detections of all images take their turn together,
with all thresholds and area ranges at once. Only pairs with an overlap of .5 or more can matter.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from evaluation.open_world.overlaps import BoolArray, IntArray, Overlaps
from evaluation.seg.coco_backends import IOU_THRESHOLDS

# As in the COCO API, so that rounding cannot prevent IoU 1.0
_NEEDED = np.minimum(IOU_THRESHOLDS, 1 - 1e-10)
_STATES = 1 << 24  # entries of the table of used objects that are held at a time


def match(overlaps: Overlaps, groups: IntArray, ignored: BoolArray) -> tuple[IntArray, IntArray]:
    """Match the detections of each group of objects.

    Args:
        overlaps: pairs of detections and objects.
        groups: (G,) number of the group of each object, such as its image, or its image and
            category. Groups do not compete with each other; a detection enters each of them.
        ignored: (A, G) whether an object does not count, in each of A area ranges.

    Returns:
        (C,) the pair with which each candidate begins, ascending: a candidate is a detection in a
        group with one of whose objects it overlaps. (A, T, C) the pair by which the candidate is
        matched at each of T thresholds, or -1.
    """
    pair_groups = groups[overlaps.pair_objects]
    # By group, then detection, then object; detections are numbered by score within an image.
    order = np.lexsort((overlaps.pair_objects, overlaps.pair_detections, pair_groups))
    keys = np.stack([pair_groups[order], overlaps.pair_detections[order]])
    new = np.ones(order.size, dtype=bool)
    new[1:] = (keys[:, 1:] != keys[:, :-1]).any(axis=0)
    first = np.flatnonzero(new)  # of each candidate, among the ordered pairs
    ends = np.append(first[1:], order.size)
    matched = np.full((len(ignored), _NEEDED.size, first.size), -1, dtype=np.int64)
    slots = _slots(groups)
    for block in _blocks(keys[0][first], slots, groups, matched.shape[0] * _NEEDED.size):
        _match_block(overlaps, order, first, ends, slots, ignored, block, matched)
    return order[first], matched


def _slots(groups: IntArray) -> IntArray:
    """Return (G,) the position of each object in its group, in the order of the objects."""
    order = np.argsort(groups, kind="stable")
    ordered = groups[order]
    starts = np.searchsorted(ordered, ordered)
    slots = np.empty(groups.size, dtype=np.int64)
    slots[order] = np.arange(groups.size) - starts
    return slots


def _blocks(
    candidate_groups: IntArray, slots: IntArray, groups: IntArray, states: int
) -> Iterator[list[IntArray]]:
    """Yield the candidates of several groups; of each group they are in order of score."""
    if not candidate_groups.size:
        return
    cuts = np.flatnonzero(np.diff(candidate_groups)) + 1
    members = np.split(np.arange(candidate_groups.size), cuts)
    width = int(slots.max()) + 1
    members.sort(key=len, reverse=True)  # the groups whose turn is not over come first
    size = max(1, _STATES // (states * width))
    for start in range(0, len(members), size):
        yield members[start : start + size]


def _match_block(
    overlaps: Overlaps,
    order: IntArray,
    first: IntArray,
    ends: IntArray,
    slots: IntArray,
    ignored: BoolArray,
    block: list[IntArray],
    matched: IntArray,
) -> None:
    """Match the candidates of some groups in place; the longest list of candidates comes first."""
    lengths = np.array([len(members) for members in block])
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    flat = np.concatenate(block)
    ranges, thresholds = matched.shape[:2]
    used = np.zeros((len(block), ranges, thresholds, int(slots.max()) + 1), dtype=bool)
    needed = _NEEDED[None, None, :, None]
    of_range = np.arange(ranges)[None, :, None, None]
    of_threshold = np.arange(thresholds)[None, None, :, None]
    for turn in range(lengths[0]):
        active = int(np.searchsorted(-lengths, -turn, side="left"))
        candidates = flat[starts[:active] + turn]  # (n,)
        begin, count = first[candidates], ends[candidates] - first[candidates]
        offsets = np.arange(int(count.max()))
        filled = offsets < count[:, None]  # (n, k)
        pairs = order[np.where(filled, begin[:, None] + offsets, begin[:, None])]
        objects = overlaps.pair_objects[pairs]
        ious = np.where(filled, overlaps.ious[pairs], -1.0)[:, None, None]  # (n, 1, 1, k)
        group = np.arange(active)[:, None, None, None]
        slot = slots[objects][:, None, None]
        free = ~used[group, of_range, of_threshold, slot] | overlaps.crowd[objects][:, None, None]
        possible = free & (ious >= needed)  # (n, A, T, k)
        counting = possible & ~ignored[:, objects].transpose(1, 0, 2)[:, :, None]
        chosen = np.where(counting.any(axis=3, keepdims=True), counting, possible)
        value = np.where(chosen, ious, -1.0)
        best = offsets.size - 1 - value[..., ::-1].argmax(axis=3)  # the last of equal ones
        found = chosen.any(axis=3)
        where = np.nonzero(found)
        pair = pairs[where[0], best[where]]
        matched[where[1], where[2], candidates[where[0]]] = pair
        used[(*where, slots[overlaps.pair_objects[pair]])] = True
