import numpy as np
import pytest
import yaml

RECIPE = {
    "model": {
        "class_path": "lightning_modules.mil.MILModule",
        "init_args": {
            "model": {
                "class_path": "models.mil.abmil.ABMIL",
                "init_args": {"hidden_sizes": [8], "dropout": 0.25, "attention_dim": 4},
            },
            "optimizer": {
                "class_path": "torch.optim.AdamW",
                "init_args": {"lr": 0.01, "weight_decay": 0.1},
            },
            "lr_scheduler": {
                "class_path": "optim.schedules.Cosine",
                "init_args": {"warmup": 0.1},
            },
        },
    },
    "data": {
        "class_path": "datamodules.mil.npz.TabularBagsDataModule",
        "init_args": {"batch_size": 4, "val_fraction": 0.25},
    },
    "trainer": {"max_steps": 30, "gradient_clip_val": 1.0},
}


@pytest.fixture
def config(tmp_path):
    """Return a function that writes the recipe with changes given as (path, value) pairs."""

    def written(*changes):
        recipe = yaml.safe_load(yaml.safe_dump(RECIPE))
        for path, value in changes:
            *parents, last = path.split(".")
            node = recipe
            for parent in parents:
                node = node[parent]
            node[last] = value
        file = tmp_path / "recipe.yaml"
        file.write_text(yaml.safe_dump(recipe))
        return file

    return written


@pytest.fixture
def bag_file(tmp_path):
    """Return a file of 30 bags; a positive one holds an instance with a large first feature."""
    random = np.random.default_rng(0)
    sizes = random.integers(1, 6, 30)
    features = random.normal(size=(sizes.sum(), 3))
    labels = np.arange(30) % 2
    first = np.cumsum(sizes) - sizes
    features[first[labels == 1], 0] += 6
    path = tmp_path / "bags.npz"
    np.savez(path, X=features, bag_index=np.repeat(np.arange(30), sizes), y=labels)
    return path
