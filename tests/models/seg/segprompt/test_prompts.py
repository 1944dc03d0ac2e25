"""The bank of categories against its closed form."""

import torch

from lightning_modules.parameter_groups import parameter_groups
from models.seg.segprompt.prompts import CategoryPrompts


def test_first_write_and_moving_average():
    prompts = CategoryPrompts(4, 2, momentum=0.75)
    draws = torch.randn(3, 5, 2, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([1, 1, 3, 1, 3])
    expected = torch.zeros(4, 2)
    for step, rows in enumerate(draws):
        prompts.keep(rows[:3], labels[:3])  # two batches of a step
        prompts.keep(rows[3:], labels[3:])
        prompts.update()
        for label in (1, 3):
            mean = rows[labels == label].mean(dim=0)
            old = expected[label]
            expected[label] = mean if step == 0 else 0.75 * old + 0.25 * mean
        torch.testing.assert_close(prompts.bank, expected)
    assert prompts.seen.tolist() == [False, True, False, True]


def test_untouched_rows_stay_bit_for_bit():
    prompts = CategoryPrompts(3, 2, momentum=0.9)
    prompts.keep(torch.rand(3, 2), torch.tensor([0, 1, 2]))
    prompts.update()
    before = prompts.bank.clone()
    prompts.keep(torch.rand(1, 2), torch.tensor([1]))
    prompts.update()
    assert torch.equal(prompts.bank[[0, 2]], before[[0, 2]])
    prompts.update()  # a step without an example
    prompts.keep(torch.rand(0, 2), torch.zeros(0, dtype=torch.int64))
    prompts.update()
    assert torch.equal(prompts.bank[[0, 2]], before[[0, 2]])


def test_the_bank_is_not_optimised(segprompt):
    model = segprompt()
    trained = [p for group in parameter_groups(model, False, {}, None) for p in group["params"]]
    assert model.prompts.bank.data_ptr() not in {p.data_ptr() for p in trained}
    assert model.prompts.features.weight.data_ptr() in {p.data_ptr() for p in trained}
    assert {"prompts.bank", "prompts.seen"} <= model.state_dict().keys()
    decay = {
        id(p): group.get("weight_decay")
        for group in parameter_groups(model, False, {}, None)
        for p in group["params"]
    }
    assert decay[id(model.prompts.places.weight)] == 0.0


def test_content_and_position_of_prompts():
    prompts = CategoryPrompts(3, 2, momentum=0.9)
    prompts.bank.copy_(torch.tensor([[0.0, 0], [1, 2], [3, 4]]))
    content, place = prompts(torch.tensor([[2, 1]]))
    torch.testing.assert_close(content[0] - prompts.features.weight[[2, 1]], prompts.bank[[2, 1]])
    torch.testing.assert_close(place[0] - prompts.places.weight[[2, 1]], prompts.bank[[2, 1]])
