"""Jobs of Slurm and several processes as a user starts them, with the variables set by hand."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import train
from lightning_modules.mil import MILModule

ROOT = Path(__file__).resolve().parents[3]
BAGS = [
    "fit", "--config", "configs/quickstart/abmil.yaml", "--data.train_bags", "40",
    "--data.val_bags", "32", "--trainer.max_epochs", "2", "--trainer.accelerator", "cpu",
    *(f"--callbacks.{name}=false" for name in ("curves", "confusion", "attention", "progress")),
]  # fmt: skip
TASK = {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_JOB_NAME": "train"}


@pytest.fixture(autouse=True)
def job(monkeypatch, tmp_path):
    """A job of one task in an empty folder, with an `scontrol` that writes down its words."""
    monkeypatch.chdir(tmp_path)
    for name, value in (TASK | {"SLURM_JOB_ID": "41", "SLURM_NTASKS": "1"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID", raising=False)
    program = tmp_path / "bin" / "scontrol"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/scontrol.txt\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")


@pytest.fixture
def send(monkeypatch):
    """Send SIGUSR1 to this process in the seventh training step."""
    original, count = MILModule.training_step, iter(range(1, 1000))

    def sending(self, *arguments):
        if next(count) == 7:
            os.kill(os.getpid(), signal.SIGUSR1)
        return original(self, *arguments)

    monkeypatch.setattr(MILModule, "training_step", sending)


def run_folder(version=0, name="abmil"):
    return Path("runs") / name / f"version_{version}"


def steps(version=0, name="abmil"):
    file = run_folder(version, name) / "checkpoints" / "last.ckpt"
    return torch.load(file, weights_only=True)["global_step"]


@pytest.mark.slow
def test_a_requeued_job_continues_its_run_and_no_other(send, monkeypatch, capsys, tmp_path):
    Path("hpc_ckpt_1.ckpt").write_bytes(b"of another run, as Lightning would take it")
    assert train.main(BAGS) == 128 + signal.SIGUSR1
    assert "requeued job 41; stopped by SIGUSR1 after step 7; to resume:" in capsys.readouterr().err
    assert Path("scontrol.txt").read_text() == "requeue 41\n"
    assert steps() == 7
    assert train.main([*BAGS, "--trainer.max_epochs", "1"]) == 0  # another command of this job
    assert steps(1) == 5
    assert train.main(BAGS) == 0
    assert steps() == 10
    assert sorted(p.name for p in run_folder().parent.iterdir()) == ["version_0", "version_1"]
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    assert train.main(BAGS) == 0
    assert steps(2) == 10
    straight, cut = (
        torch.load(run_folder(k) / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for k in (2, 0)
    )
    for name, value in straight.items():
        assert torch.equal(value, cut[name]), name
    left = sorted(p.name for p in tmp_path.iterdir())
    assert left == ["bin", "hpc_ckpt_1.ckpt", "runs", "scontrol.txt"]


@pytest.mark.slow
def test_a_named_run_is_continued_in_its_folder(send):
    words = [*BAGS, "--name", "mine", "--runs_dir", "runs"]
    assert train.main(words) == 128 + signal.SIGUSR1
    assert train.main(words) == 0
    assert steps(0, "mine") == 10
    assert [p.name for p in Path("runs/mine").iterdir()] == ["version_0"]


def test_a_job_that_cannot_be_requeued_says_so(send, capsys, tmp_path):
    (tmp_path / "bin" / "scontrol").write_text("#!/bin/sh\necho Requeue is disabled >&2\nexit 1\n")
    assert train.main(BAGS) == 128 + signal.SIGUSR1
    error = capsys.readouterr().err
    assert "job 41 could not be requeued: Requeue is disabled; stopped by SIGUSR1" in error
    assert "python train.py fit --ckpt_path runs/abmil/version_0/checkpoints/last.ckpt" in error


@pytest.mark.slow
def test_the_first_of_two_stages_is_continued(send, capsys):
    recipe = ["--config", "configs/mil/mhim.yaml", "--config", "configs/_base/data/digit_bags.yaml"]
    recipe += ["--config", "configs/_base/small_bags.yaml"]
    words = ["fit", *recipe, *BAGS[3:]]
    assert train.main(words) == 128 + signal.SIGUSR1
    assert "first_stage/checkpoints/last.ckpt" in capsys.readouterr().err
    assert train.main(words) == 0
    assert [p.name for p in Path("runs/mhim").iterdir()] == ["version_0"]
    assert steps(0, "mhim") == 10


def test_tasks_that_would_each_train_are_refused(monkeypatch, capsys):
    monkeypatch.setenv("SLURM_NTASKS", "2")
    assert train.main(BAGS) == 2
    error = capsys.readouterr().err
    assert "the job has 2 tasks (SLURM_NTASKS)" in error
    assert "configs/_base/ddp.yaml" in error
    assert not Path("runs").exists()


def free_port():
    with socket.socket() as open_socket:
        open_socket.bind(("127.0.0.1", 0))
        return str(open_socket.getsockname()[1])


def tasks(folder, sets, words):
    """Start one process for each set of variables and return their logs."""
    program = [sys.executable, str(ROOT / "train.py"), *words]
    base = {k: v for k, v in os.environ.items() if not k.startswith("SLURM")}
    base |= {"OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    logs = [(folder / f"task_{k}.txt") for k in range(len(sets))]
    started = []
    for log, values in zip(logs, sets, strict=True):
        with log.open("wb") as stream:
            started.append(
                subprocess.Popen(program, env=base | values, stdout=stream, stderr=stream)
            )
    try:
        codes = [process.wait(240) for process in started]
    finally:
        for process in started:
            process.kill()
    texts = [log.read_text() for log in logs]
    assert codes == [0] * len(sets), texts
    return texts


def of_srun(rank):
    step = {"SLURM_STEP_ID": "0", "SLURM_NTASKS": "2", "SLURM_JOB_ID": "43"}
    return TASK | step | {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)}


def of_torchrun(rank):
    group = {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    return group | {"RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0"}


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [of_srun, of_torchrun])
def test_the_processes_of_a_launcher_train_one_model(tmp_path, launcher):
    words = [*BAGS, "--data.batch_size", "4"]  # of one process; half of the recipe's
    texts = tasks(tmp_path, [launcher(0), launcher(1)], words)
    assert "2 processes train one model" in texts[0]
    assert [p.name for p in Path("runs/abmil").iterdir()] == ["version_0"]
    assert steps() == 10


def test_the_sbatch_file_of_a_training(tmp_path):
    """Words of the user reach `fit`, by srun; Slurm's signal and requeueing are asked for."""
    (tmp_path / "bin" / "activate").write_text(f'PATH="{tmp_path}/bin:$PATH"\n')
    program = tmp_path / "bin" / "srun"
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    program.chmod(0o755)
    file = ROOT / "docs" / "slurm" / "train.sbatch"
    done = subprocess.run(
        ["bash", str(file), "--config", "a b.yaml"],
        env=os.environ | {"ENVIRONMENT": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    words = ["python", "train.py", "fit", "--config", "a b.yaml", "--data.num_workers", "7"]
    assert done.stdout.splitlines() == words
    text = file.read_text()
    assert "#SBATCH --signal=USR1@120" in text
    assert "#SBATCH --requeue" in text
