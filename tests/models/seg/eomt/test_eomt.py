"""EoMT: outputs, padding, annealed masks, and what it refuses."""

import copy
import dataclasses

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from models.backbones.timm_vit import TimmViT
from models.seg.eomt import EoMT
from models.seg.eomt.annealing import PARTS
from models.seg.queries.mask_classification import MaskLossOptions

CLASSES, QUERIES, BLOCKS = 3, 6, 2
OPTIONS = {"embed_dim": 32, "depth": 4, "num_heads": 2}


def make(image_size=128, patch_size=16, name="vit_small_patch14_reg4_dinov2", **rest):
    torch.manual_seed(0)
    vit = TimmViT(name, image_size, patch_size, options=OPTIONS)
    options = {"num_queries": QUERIES, "num_blocks": BLOCKS} | rest
    network = EoMT(CLASSES, vit, loss=MaskLossOptions(num_points=64), **options).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network


@pytest.fixture(scope="module")
def network():
    return make()


def run(network, *args, **kwargs):
    with torch.no_grad():
        return network(*args, **kwargs)


@pytest.mark.parametrize("patch_size", [8, 16, 32])
def test_every_supervised_output_has_masks_of_stride_4(patch_size):
    output = run(make(patch_size=patch_size), torch.rand(2, 3, 64, 96))
    assert [x.shape for x in output.class_logits] == [(2, QUERIES, CLASSES + 1)] * (BLOCKS + 1)
    assert [x.shape for x in output.mask_logits] == [(2, QUERIES, 16, 24)] * (BLOCKS + 1)
    assert output.boxes is None


@pytest.mark.parametrize("progress", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("name", ["vit_small_patch14_reg4_dinov2", "vit_tiny_patch16_224"])
def test_a_part_of_the_square_equals_the_whole_with_its_rest_masked(name, progress):
    """Padding is neither computed nor attended, and the upscaling does not see it."""
    network = make(name=name)
    network.set_progress(progress)
    sizes = torch.tensor([[64, 96], [50, 96]])
    part = torch.rand(2, 3, 64, 96)
    whole = torch.nn.functional.pad(part, (0, 32, 0, 64), value=0.7)
    index = torch.tensor([4, 9])
    found, expected = (run(network, x, sizes, index=index) for x in (part, whole))
    for one, two in zip(found.class_logits, expected.class_logits, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)
    for one, two in zip(found.mask_logits, expected.mask_logits, strict=True):
        torch.testing.assert_close(one[0], two[0, :, :16, :24], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(one[1, :, :12], two[1, :, :12, :24], rtol=1e-4, atol=1e-4)


def test_sizes_of_whole_images_change_nothing(network):
    images = torch.rand(2, 3, 64, 96)
    sizes = torch.tensor([[64, 96], [64, 96]])
    for one, two in zip(run(network, images), run(network, images, sizes), strict=True):
        assert one is two is None or all(map(torch.equal, one, two))


def test_an_image_does_not_depend_on_its_batch(network):
    images, sizes = torch.rand(2, 3, 64, 96), torch.tensor([[40, 90], [64, 60]])
    network = copy.deepcopy(network)
    network.set_progress(0.45)
    both = run(network, images, sizes, key=3, index=torch.tensor([5, 8]))
    for position, (index, side) in enumerate([(5, (64, 96)), (8, (64, 64))]):
        alone = run(
            network,
            images[position : position + 1, :, :, : side[1]],
            sizes[position : position + 1],
            key=3,
            index=torch.tensor([index]),
        )
        for one, two in zip(alone.class_logits, both.class_logits, strict=True):
            torch.testing.assert_close(one[0], two[position], rtol=1e-4, atol=1e-4)


def masks_of_attention(network, images, *args, **kwargs):
    """Return the mask that each block gets, None without one."""
    seen = []
    hooks = [
        block.register_forward_pre_hook(
            lambda _, args, kwargs: seen.append(kwargs.get("attn_mask")), with_kwargs=True
        )
        for block in network.backbone.blocks
    ]
    with torch.no_grad():
        network(images, *args, **kwargs)
    for hook in hooks:
        hook.remove()
    return seen


def test_without_padding_and_annealing_attention_has_no_mask(network):
    network = copy.deepcopy(network)
    images = torch.rand(1, 3, 64, 64)
    network.set_progress(1.0)
    assert masks_of_attention(network, images) == [None] * 4
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):  # which takes no masks on a GPU
        run(network, images)
    padded = masks_of_attention(network, images, torch.tensor([[64, 40]]))
    assert [m.shape for m in padded] == [(1, 1, 1, 21)] * 2 + [(1, 1, 1, 27)] * 2
    assert padded[-1][0, 0, 0].tolist() == [True] * 11 + [True, True, False, False] * 4


def test_only_queries_are_masked_and_only_from_patches(network):
    network = copy.deepcopy(network)
    network.set_progress(0.0)
    images = torch.rand(2, 3, 64, 64)
    *plain, first, second = masks_of_attention(network, images)
    assert plain == [None, None]
    output = run(network, images)
    for number, mask in enumerate((first, second)):
        logits = torch.nn.functional.interpolate(
            output.mask_logits[number], (4, 4), mode="bilinear"
        )
        expected = torch.ones(2, 27, 27, dtype=torch.bool)
        expected[:, :QUERIES, 11:] = logits.flatten(2) > 0
        assert torch.equal(mask[:, 0], expected)
        assert not expected.all()


def test_shares_of_masked_queries_follow_the_progress(network):
    network = copy.deepcopy(network)
    # windows 1/4 to 1/2 and 1/2 to 3/4
    for progress, expected in [
        (0.0, [1, 1]),
        (0.25, [1, 1]),
        (0.375, [0.5**0.9, 1]),
        (0.5, [0, 1]),
        (0.7, [0, 0.2**0.9]),
        (0.75, [0, 0]),
        (1.0, [0, 0]),
    ]:
        network.set_progress(progress)
        shares = network.mask_parts / PARTS
        torch.testing.assert_close(shares.tolist(), expected, rtol=0, atol=1e-6, check_dtype=False)
    assert not network.mask_parts.is_floating_point()  # averages of weights leave integers alone


def test_prediction_after_the_annealing_is_plain(network, scene):
    batch = scene([(64, 96)])[0]
    network = copy.deepcopy(network)
    network.set_progress(1.0)
    calls = []
    network.class_head.register_forward_hook(lambda *_: calls.append(1))
    network.network_outputs(batch)
    assert len(calls) == 1
    network.set_progress(0.6)  # the second block still has masks
    output = network.network_outputs(batch)
    assert len(calls) == 3
    whole = run(network, batch.images, batch.sizes, index=batch.index)
    assert len(output.mask_logits) == len(output.class_logits) == 1
    torch.testing.assert_close(output.mask_logits[0], whole.mask_logits[-1])


def test_a_copy_of_the_weights_predicts_alike_within_the_annealing(network, scene):
    batch = scene([(64, 96)])[0]
    one = copy.deepcopy(network)
    one.set_progress(0.4)
    two = make()
    two.load_state_dict(one.state_dict())
    assert torch.equal(two.mask_parts, one.mask_parts)
    pair = [n.network_outputs(batch).mask_logits[0] for n in (one, two)]
    assert torch.equal(*pair)
    one.set_progress(0.0)
    assert not torch.equal(one.network_outputs(batch).mask_logits[0], pair[0])


def test_losses_depend_on_the_key_and_change_no_state(network, scene):
    network = copy.deepcopy(network)
    network.set_progress(0.4)
    batch = scene([(64, 96), (64, 64)])[0]
    before = copy.deepcopy(network.state_dict())
    one, again, other = (network.losses(batch, key=key) for key in (1, 1, 2))
    assert set(one) == {"class", "mask", "dice"}
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_an_image_of_any_size_is_padded_to_multiples_of_32(network, scene):
    batch = scene([(70, 90)])[0]
    terms = network.losses(batch)
    padded = dataclasses.replace(
        batch,
        images=torch.nn.functional.pad(batch.images, (0, 38, 0, 58), value=0.3),
        masks=torch.nn.functional.pad(batch.masks, (0, 38, 0, 58)),
    )
    for name, value in network.losses(padded).items():
        torch.testing.assert_close(value, terms[name], rtol=1e-4, atol=1e-5)


def test_class_weights_change_the_class_term_alone(network, scene):
    batch = scene([(64, 96)])[0]
    plain = network.losses(batch)
    weighted = copy.deepcopy(network)
    weighted.set_class_weights(torch.full((CLASSES,), 2.0))
    found = weighted.losses(batch)
    assert found["class"] > plain["class"]
    assert torch.equal(found["mask"], plain["mask"])


def test_a_larger_image_is_refused_with_both_sizes_and_a_remedy(network, scene):
    batch = scene([(64, 160)])[0]
    message = r"images of 64 x 160 are larger than the square of 128 x 128 .* image_size 160"
    for call in (network.losses, network.network_outputs, lambda b: network(b.images)):
        with pytest.raises(ValueError, match=message):
            call(batch)


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 4, 64, 64), (1, 3, 64, 65)])
def test_images_of_another_shape_are_refused(network, shape):
    with pytest.raises(ValueError, match=r"images must be|multiples of 32"):
        network(torch.rand(shape))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_queries": 0}, "num_queries must be at least 1, got 0"),
        ({"num_blocks": 5}, r"num_blocks must be in 1\.\.4, the blocks of vit_small"),
        ({"image_std": (1.0, 0.0, 1.0)}, "image_std must be positive"),
        ({"patch_size": 14, "image_size": 126}, "must be 8, 16 or 32 pixels, got 14; set"),
        ({"image_size": 144}, "image_size of .* must be a multiple of 32, got 144"),
        ({"annealing": [(0.0, 1.0)]}, "annealing needs 2 windows, one a block, got 1"),
        ({"annealing": [(0.0, 1.0), (0.5, 0.5)]}, r"0 <= start < end <= 1, got \(0\.5, 0\.5\)"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        make(**arguments)


def test_parameters_of_the_published_network():
    with torch.device("meta"):
        vit = TimmViT("vit_large_patch14_reg4_dinov2", 640, 16)
        network = EoMT(80, vit)
    assert sum(p.numel() for p in network.parameters()) == 316_641_361
