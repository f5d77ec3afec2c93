"""Job scripts: read by bash, and run with a scheduler that only writes down what it is asked for."""

import os
import re
import subprocess
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "scripts" / "slurm"
REQUEUED = ["refine.sh", "train_node.sh", "train_nodes.sh"]


def asked(script: str, tmp_path: Path, status: int) -> tuple[int, list[str]]:
    """Exit code of a script whose srun ends with `status`, and the commands of Slurm that it gave."""
    heard = tmp_path / "heard"
    for name, code in (("srun", status), ("scontrol", 0)):
        path = tmp_path / name
        path.write_text(f'#!/bin/bash\necho "{name} $*" >> "{heard}"\nexit {code}\n')
        path.chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SLURM_JOB_ID": "77",
        "SLURM_JOB_NUM_NODES": "2",
    }
    done = subprocess.run(["bash", str(FOLDER / script), "c.yaml", "runs/a"], env=environment, cwd=tmp_path)
    return done.returncode, heard.read_text().splitlines()


@pytest.mark.parametrize("script", sorted(path.name for path in FOLDER.glob("*.sh")))
def test_bash_reads_it_and_slurm_is_told_what_it_needs(script):
    text = (FOLDER / script).read_text()
    subprocess.run(["bash", "-n", str(FOLDER / script)], check=True)
    options = dict(re.findall(r"^#SBATCH --([a-z-]+)(?:=(\S+))?$", text, re.MULTILINE))
    assert {"job-name", "nodes", "gpus-per-node", "cpus-per-task", "time"} <= set(options)
    assert re.search(rf"sbatch .*scripts/slurm/{re.escape(script)} (CONFIG|FILES) OUT", text)
    if script in REQUEUED:
        assert "requeue" in options and options["signal"].startswith("USR1@")


@pytest.mark.parametrize("script", REQUEUED)
@pytest.mark.parametrize("status", [138, 143])
def test_a_job_whose_time_is_over_goes_back_to_the_queue(script, status, tmp_path):
    code, heard = asked(script, tmp_path, status)
    assert code == 0 and heard[-1] == "scontrol requeue 77" and len(heard) == 2


@pytest.mark.parametrize("script", REQUEUED)
@pytest.mark.parametrize("status", [0, 2, 1])
def test_any_other_end_is_the_end_of_the_job(script, status, tmp_path):
    code, heard = asked(script, tmp_path, status)
    assert code == status and len(heard) == 1


def test_refine_runs_one_pack_a_gpu(tmp_path):
    _, (command,) = asked("refine.sh", tmp_path, 0)
    assert command == "srun cgrefine refine c.yaml --out runs/a --set sim.packs=4"
    assert "#SBATCH --gpus-per-node=4\n" in (FOLDER / "refine.sh").read_text()


@pytest.fixture
def deployed(tmp_path):
    """Files, plugins, a folder for the job, and an srun that writes down where it is and what it runs."""
    for name in ("files/in.lammps", "files/network.ptb", "plugin/x", "pjrt/x", "bin/srun"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    srun = tmp_path / "bin/srun"
    srun.write_text(f'#!/bin/bash\necho "$PWD $OMP_NUM_THREADS $*" > "{tmp_path}/heard"\n')
    srun.chmod(0o755)
    return tmp_path


def deploy(folder: Path, *arguments: str, **changes: str | None) -> subprocess.CompletedProcess:
    """The script in that folder; a changed variable that is None is not set."""
    environment: dict[str, str | None] = {
        "PATH": f"{folder}/bin:{os.environ['PATH']}",
        "LAMMPS_PLUGIN_PATH": str(folder / "plugin"),
        "JCN_PJRT_PATH": str(folder / "pjrt"),
        "SLURM_CPUS_PER_TASK": "8",
        **changes,
    }
    command = ["bash", str(FOLDER / "lammps_deploy.sh"), *arguments]
    env = {name: value for name, value in environment.items() if value is not None}
    return subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True)


def test_lammps_runs_in_a_copy_of_the_files(deployed):
    assert deploy(deployed, "files", "runs/a", "-var", "steps", "500").returncode == 0
    copy = deployed / "runs/a"
    assert sorted(p.name for p in copy.iterdir()) == ["in.lammps", "network.ptb"]
    heard = (deployed / "heard").read_text()
    assert heard == f"{copy} 8 lmp -in in.lammps -log log.lammps -var steps 500\n"


@pytest.mark.parametrize(
    "arguments, changes, said",
    [
        (["files"], {}, "usage: sbatch"),
        (["bin", "runs/a"], {}, "bin: no in.lammps with a network.ptb"),
        (["files", "pjrt"], {}, "pjrt is there already"),
        (["files", "runs/a"], {"LAMMPS_PLUGIN_PATH": None}, "LAMMPS_PLUGIN_PATH must name"),
        (["files", "runs/a"], {"JCN_PJRT_PATH": "nowhere"}, "JCN_PJRT_PATH must name"),
    ],
)
def test_what_lammps_would_miss_is_said_before_it_starts(deployed, arguments, changes, said):
    done = deploy(deployed, *arguments, **changes)
    assert done.returncode == 2 and said in done.stderr and len(done.stderr.splitlines()) == 1
    assert not (deployed / "heard").exists()
