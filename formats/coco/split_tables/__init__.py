"""Categories of COCO, LVIS v1 and Objects365 v2, from which the shipped splits follow."""
