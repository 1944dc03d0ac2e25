"""A small INS model with bags and memory, for its tests."""

import torch

from models.mil.ins import INS
from structures import BagBatch


def learner(num_classes=2, task="binary", seed=0, **arguments):
    torch.manual_seed(seed)
    settings = {"hidden_sizes": (6,), "projection_dim": 4, "queue_size": 11, "view_dropout": 0.0}
    settings |= {"warmup": 0.25, "temperature": 0.5} | arguments
    return INS(3, num_classes, task, **settings)


def bag_batch(sizes, labels, seed=0, numbers=None):
    generator = torch.Generator().manual_seed(seed)
    return BagBatch(
        features=torch.randn(sum(sizes), 3, generator=generator),
        offsets=torch.tensor([0, *sizes]).cumsum(0),
        labels=torch.tensor(labels),
        index=torch.tensor(numbers or list(range(len(sizes)))),
    )


def memory_for(model, bags):
    memory = model.new_memory()
    memory.set_training_bags(bags.index, bags.labels, bags.sizes())
    return memory.to(bags.features.dtype)
