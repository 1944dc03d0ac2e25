"""One process of a group: runs the functions that the test session names, until told to stop.

The environment is that of torchrun, so that Lightning and the command line behave as under it.
"""

import datetime
import faulthandler
import importlib.util
import json
import os
import pickle
import signal
import sys
import traceback
from pathlib import Path


def load(path, modules={}):  # noqa: B006
    """Import a test file by its path, once."""
    if path not in modules:
        spec = importlib.util.spec_from_file_location(f"case_{len(modules)}", path)
        modules[path] = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = modules[path]
        spec.loader.exec_module(modules[path])
    return modules[path]


def main(connection, log, rank, world, store, root):
    """Run functions until the connection is closed; what is printed goes to the file ``log``."""
    with Path(os.devnull).open("rb") as nothing, Path(log).open("wb") as stream:
        for descriptor, file in enumerate((nothing, stream, stream)):
            os.dup2(file.fileno(), descriptor)
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    os.environ.pop("WANDB_SERVICE", None)  # of the tests' process, which may end it any time
    os.chdir(root)
    sys.path.insert(0, root)
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "GROUP_RANK": "0",
        "LOCAL_WORLD_SIZE": str(world), "TORCHELASTIC_RUN_ID": "none",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0",
        "OMP_NUM_THREADS": "1", "NO_ALBUMENTATIONS_UPDATE": "1",
    }  # fmt: skip
    if "SEGMIL_CHANGED_FILE" in os.environ:  # see tests/perturb.py
        from tests.perturb import install

        install(json.loads(os.environ["SEGMIL_CHANGED_FILE"]))
    import torch
    from pytorch_lightning.utilities import rank_zero_only

    rank_zero_only.rank = rank  # read when Lightning was imported, before the variables were set
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{store}",
        rank=rank,
        world_size=world,
        timeout=datetime.timedelta(seconds=60),
    )
    while True:
        try:
            path, name, arguments = pickle.loads(connection.recv_bytes())
        except EOFError:
            return
        try:
            answer = True, getattr(load(path), name)(rank, world, **arguments)
        except BaseException:
            answer = False, traceback.format_exc()
        connection.send_bytes(pickle.dumps(answer))
