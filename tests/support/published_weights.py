"""Names and shapes of published weight files, and files of random weights with these names.

``python -m tests.support.published_weights --write`` derives the lists in
``tests/formats/weights/published`` from torchvision's and timm's builders. The first line of a list
names the file and says how its names were derived; no weights are stored.
"""

import re
import sys
from pathlib import Path

import torch

FOLDER = Path(__file__).resolve().parents[1] / "formats" / "weights" / "published"
SOURCES = {
    "resnet50_v1": "resnet50-0676ba61.pth: torchvision's resnet50, without counters of batches",
    "resnet50_v2": "resnet50-11ad3fa6.pth: torchvision's resnet50",
    "maskrcnn_v1": "maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth: torchvision's maskrcnn_resnet50_fpn "
    "with frozen norms, renamed back as its loaders of version 1 expect",
    "maskrcnn_v2": "maskrcnn_resnet50_fpn_v2_coco-73cbd019.pth: torchvision's "
    "maskrcnn_resnet50_fpn_v2",
    "timm_resnet18": "timm/resnet18.a1_in1k, model.safetensors: timm's resnet18",
    "timm_convnext_atto": "timm/convnext_atto.d2_in1k, model.safetensors: timm's convnext_atto",
}  # fmt: skip


def shapes(kind):
    """Return the shapes of a published file by name."""
    lines = (FOLDER / f"{kind}.txt").read_text().splitlines()[1:]
    return {name: tuple(map(int, sizes)) for name, *sizes in map(str.split, lines)}


def random_weights(kind, seed=0):
    """Return random weights with the names of a published file, scaled so that nothing explodes."""
    generator = torch.Generator().manual_seed(seed)
    return {name: _random(name, shape, generator) for name, shape in shapes(kind).items()}


def _random(name, shape, generator):
    noise = torch.randn(shape, generator=generator)
    if name.endswith("num_batches_tracked"):
        return torch.zeros((), dtype=torch.int64)
    if name.endswith("running_var"):
        return 1 + 0.2 * noise.tanh()
    if name.endswith("running_mean") or name.endswith("bias"):
        return 0.05 * noise
    if len(shape) == 1:  # scales of norms; the last of a block is small, so sums do not grow
        return (0.2 if "bn3" in name else 1.0) + 0.05 * noise
    if "bbox_pred" in name or "cls_logits" in name or "cls_score" in name:
        return 0.01 * noise
    return noise * (2 / torch.Size(shape[1:]).numel()) ** 0.5


def old_name(name):
    """Return the name of a tensor in files from before torchvision 0.13."""
    name = re.sub(r"^(backbone\.fpn\.\w+_blocks\.\d)\.0\.", r"\1.", name)
    name = re.sub(r"^rpn\.head\.conv\.0\.0\.", "rpn.head.conv.", name)
    number = re.match(r"roi_heads\.mask_head\.(\d)\.0\.", name)
    if number is None:
        return name
    return name.replace(number[0], f"roi_heads.mask_head.mask_fcn{int(number[1]) + 1}.")


def _derive(kind):
    import timm
    from torchvision.models import resnet50
    from torchvision.models.detection import maskrcnn_resnet50_fpn, maskrcnn_resnet50_fpn_v2

    bare = {"weights": None, "weights_backbone": None}
    builders = {
        "resnet50_v1": resnet50,
        "resnet50_v2": resnet50,
        "maskrcnn_v1": lambda: maskrcnn_resnet50_fpn(**bare),
        "maskrcnn_v2": lambda: maskrcnn_resnet50_fpn_v2(**bare),
    }
    with torch.device("meta"):
        build = builders.get(kind) or (lambda: timm.create_model(kind.removeprefix("timm_")))
        found = {name: tuple(value.shape) for name, value in build().state_dict().items()}
    if kind.endswith("_v1"):
        found = {k: v for k, v in found.items() if "num_batches_tracked" not in k}
    return {old_name(k): v for k, v in found.items()} if kind == "maskrcnn_v1" else found


def main():
    """Write all lists."""
    FOLDER.mkdir(exist_ok=True)
    for kind, source in SOURCES.items():
        lines = [" ".join([name, *map(str, shape)]) for name, shape in _derive(kind).items()]
        (FOLDER / f"{kind}.txt").write_text("\n".join([source, *lines]) + "\n")


if __name__ == "__main__" and "--write" in sys.argv:
    main()
