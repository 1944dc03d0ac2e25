import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from callbacks.mil import attention as attention_module
from callbacks.mil.attention import AttentionFigure, draw_bag, instance_images
from callbacks.mil.slide_parts import SlidePart
from evaluation.report.attention_map import plot_attention_map
from structures import BagBatch, MILOutput


def filled(figure, module, batches):
    for batch in batches:
        figure.keep(module, module(batch), batch)
    return figure


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_half_of_the_bags_are_positive_whatever_the_batches(batch_size, stand_in):
    figure = filled(
        AttentionFigure(num_bags=4), stand_in.BagModule(), stand_in.bags(range(12), batch_size)
    )
    chosen = figure._chosen()
    assert [one.label for one in chosen] == [0, 0, 1, 1]
    # Numbers times 0.618 modulo 1, even: 0, .24, .47, .71, .94, .18; odd: .62, .85, .09, .33,
    # .56, .80; so 0 and 10 are chosen of the even ones, 5 and 7 of the odd ones.
    assert [one.attention.index for one in chosen] == [0, 10, 5, 7]


def test_a_missing_class_is_replaced_by_the_others(stand_in):
    figure = filled(AttentionFigure(num_bags=4), stand_in.BagModule(), stand_in.bags([1, 2, 3, 5]))
    assert sorted(one.attention.index for one in figure._chosen()) == [1, 2, 3, 5]
    figure = filled(AttentionFigure(num_bags=3), stand_in.BagModule(), stand_in.bags([1, 2, 3, 5]))
    assert [one.label for one in figure._chosen()] == [0, 1, 1]


def test_each_bag_keeps_its_own_attention_and_images(stand_in):
    figure = filled(AttentionFigure(num_bags=8), stand_in.BagModule(), stand_in.bags(range(8), 5))
    for one in figure._chosen():
        bag = stand_in.bag(one.attention.index)
        count = len(bag.features)
        weights = np.arange(1, count + 1) / (count * (count + 1) / 2)
        np.testing.assert_allclose(one.attention.weights[:, 0], weights, rtol=1e-6)
        np.testing.assert_array_equal(one.attention.witness, bag.instance_labels)
        expected = np.round(bag.features / bag.features.max() * 255).reshape(count, 2, 2)
        np.testing.assert_array_equal(one.images, expected)


def test_titles_of_a_binary_task(stand_in):
    figure = filled(AttentionFigure(num_bags=2), stand_in.BagModule(), stand_in.bags([2, 3]))
    titles = [one.title for one in figure._chosen()]
    assert titles == [
        "bag case 2\ntruth: absent · p(present) = 0.500",
        "bag case 3\ntruth: present · p(present) = 0.731",  # 1 / (1 + exp(-1))
    ]


def test_titles_of_several_classes(stand_in):
    module = stand_in.BagModule()
    module.class_names = ("a", "b", "c")
    bags = stand_in.bag(1)
    output = MILOutput(torch.tensor([[0.0, 0.0, np.log(2)]]), attention=torch.tensor([0.5, 0.5]))
    module.task = "multiclass"
    figure = AttentionFigure()
    figure.keep(module, output, bags)
    assert figure._chosen()[0].title == "bag case 1\ntruth: b · predicted: c 0.500"
    module.task = "multilabel"
    figure = AttentionFigure()
    figure.keep(module, output, dataclasses.replace(bags, labels=torch.tensor([[1, 0, 1]])))
    assert figure._chosen()[0].title == "bag case 1\ntruth: a, c · predicted: c 0.667"
    assert figure._chosen()[0].label == 1


def test_branches_are_averaged(stand_in):
    module = stand_in.BagModule()
    weights = torch.tensor([[0.9, 0.5], [0.1, 0.5]])
    figure = AttentionFigure()
    figure.keep(module, MILOutput(torch.zeros(1, 1), attention=weights), stand_in.bag(1))
    (one,) = figure._chosen()
    mean = np.array([[0.7], [0.3]], dtype=np.float32)
    single = dataclasses.replace(one, attention=dataclasses.replace(one.attention, weights=mean))
    np.testing.assert_array_equal(draw_bag(one), draw_bag(single))


def test_models_without_attention_and_images_are_left_alone(stand_in):
    figure = AttentionFigure()
    figure.keep(stand_in.BagModule(), MILOutput(torch.zeros(1, 1)), stand_in.bag(1))
    figure.keep(stand_in.SegModule(), [stand_in.found(0)], stand_in.image(0))
    assert figure._chosen() == []


def test_which_features_are_images():
    assert instance_images(torch.rand(3, 64), None).shape == (3, 8, 8)
    assert instance_images(torch.randn(3, 64), None) is None  # an embedding
    assert instance_images(torch.randn(3, 64), True).shape == (3, 8, 8)
    assert instance_images(torch.rand(3, 64), False) is None
    assert instance_images(torch.rand(3, 60), True) is None
    assert instance_images(torch.randn(3, 1, 5, 7), None).shape == (3, 5, 7)
    assert instance_images(torch.randn(3, 3, 5, 7), None).shape == (3, 5, 7, 3)
    assert instance_images(torch.randn(3, 4, 5, 7), None) is None


def test_pixel_values_share_the_range_of_the_bag():
    colour = torch.zeros(2, 3, 1, 2)
    colour[0, 1, 0, 1] = 4.0
    colour[1, 2, 0, 0] = -1.0
    images = instance_images(colour, None)
    assert images[0, 0, 1].tolist() == [51, 255, 51]  # from -1 to 4: 0 is a fifth
    assert images[1, 0, 0].tolist() == [51, 51, 0]
    assert instance_images(torch.zeros(2, 1, 3, 3), None).max() == 0  # constant


def test_drawing_depends_on_the_attention(stand_in):
    figure = filled(AttentionFigure(num_bags=1), stand_in.BagModule(), stand_in.bags([0]))
    (one,) = figure._chosen()
    turned = dataclasses.replace(
        one, attention=dataclasses.replace(one.attention, weights=one.attention.weights[::-1])
    )
    assert not np.array_equal(draw_bag(one), draw_bag(turned))
    assert draw_bag(dataclasses.replace(one, images=None)).shape[0] < draw_bag(one).shape[0]


def test_patches_with_coordinates_are_a_map(stand_in, monkeypatch):
    figure = filled(AttentionFigure(num_bags=1), stand_in.BagModule(), stand_in.bags([0]))
    (one,) = figure._chosen()
    maps = []

    def drawn_map(weights, coords, *more):
        maps.append(coords)
        return plot_attention_map(weights, coords, *more)

    monkeypatch.setattr(attention_module, "plot_attention_map", drawn_map)
    count = len(one.attention.weights)
    places = np.stack([np.arange(count), np.zeros(count)], axis=1) * 256
    slide = dataclasses.replace(one.attention, coords=places)
    draw_bag(dataclasses.replace(one, attention=slide))  # it has images
    assert maps == []
    drawn = draw_bag(dataclasses.replace(one, attention=slide, images=None))
    assert maps[0] is places
    assert drawn.shape[1] <= 1000 - 12  # two beside each other


def test_each_slide_of_a_patient_has_its_map(stand_in, monkeypatch):
    figure = filled(AttentionFigure(num_bags=1), stand_in.BagModule(), stand_in.bags([2]))
    (one,) = figure._chosen()  # four instances
    parts = (
        SlidePart("s0", slice(0, 1), np.array([[7, 8]])),
        SlidePart("s1", slice(1, 2)),
        SlidePart("s2", slice(2, 4), np.array([[7, 8], [9, 8]])),
    )
    drawn = []
    monkeypatch.setattr(
        attention_module, "plot_attention_map",
        lambda *given: drawn.append(given) or plot_attention_map(*given),
    )  # fmt: skip
    patient = dataclasses.replace(one.attention, parts=parts)
    draw_bag(dataclasses.replace(one, attention=patient, images=None))
    ((_, coords, _, _, slides),) = drawn
    np.testing.assert_array_equal(coords, [[7, 8], [np.nan, np.nan], [7, 8], [9, 8]])
    assert slides == [("s0", slice(0, 1)), ("s1", slice(1, 2)), ("s2", slice(2, 4))]
    nowhere = dataclasses.replace(patient, parts=parts[1:2])
    draw_bag(dataclasses.replace(one, attention=nowhere, images=None))
    assert len(drawn) == 1  # bars


def test_files_of_a_run(stand_in, make_trainer, tmp_path):
    trainer = make_trainer([AttentionFigure(num_bags=2)], max_epochs=2)
    trainer.fit(stand_in.BagModule(), stand_in.bags(), stand_in.bags())
    trainer.test(stand_in.BagModule(), stand_in.bags(), verbose=False)
    folder = tmp_path / "run" / "pictures"
    names = ["attention_epoch_001.png", "attention_epoch_002.png", "attention_test.png"]
    assert sorted(p.name for p in folder.iterdir()) == names
    first, test = (np.asarray(Image.open(folder / n)) for n in (names[0], names[2]))
    np.testing.assert_array_equal(first, test)
    assert first.std() > 10


def test_arguments_out_of_range():
    with pytest.raises(ValueError, match="num_bags"):
        AttentionFigure(num_bags=0)


def test_bags_without_names_go_by_number(stand_in):
    bag = dataclasses.replace(stand_in.bag(3), bag_ids=())
    module = stand_in.BagModule()
    figure = AttentionFigure()
    figure.keep(module, module(BagBatch.collate([bag])), bag)
    assert figure._chosen()[0].title.startswith("bag 3\n")
