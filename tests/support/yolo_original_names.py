"""Names of YOLOSeg's weights in the original, in the order of its list of layers."""

LAYERS = [
    *("backbone.stem", "backbone.stage2.0", "backbone.stage2.1", "backbone.stage3.0"),
    *("backbone.stage3.1", "backbone.stage4.0", "backbone.stage4.1", "backbone.stage5.0"),
    *("backbone.stage5.1", "neck.pool", None, None, "neck.down4", None, None, "neck.down3"),
    *("neck.halve3", None, "neck.up4", "neck.halve4", None, "neck.up5"),
]
HEAD = {"box": "cv2", "classes": "cv3", "coefficients": "cv4", "prototypes": "proto"}
PROTOTYPES = ("cv1", "upsample", "cv2", "cv3")
INSIDE = {"reduce": "cv1", "split": "cv1", "merge": "cv2", "norm": "bn", "chain": "m"}
INSIDE |= {"first": "cv1", "second": "cv2"}
DETECTION_ALONE = ("model.22.cv4.", "model.22.proto.")  # what a detector does not have


def original_name(name):
    """The original's name of one of our weights."""
    layer = next((x for x in LAYERS if x and name.startswith(f"{x}.")), None)
    if layer is not None:
        rest = name.removeprefix(f"{layer}.").split(".")
        return ".".join(["model", str(LAYERS.index(layer)), *(INSIDE.get(p, p) for p in rest)])
    _, branch, *rest = name.split(".")
    if branch == "prototypes":
        rest[0] = PROTOTYPES[int(rest[0])]
    return ".".join(["model.22", HEAD[branch], *(INSIDE.get(p, p) for p in rest)])
