#!/bin/bash
# Train on all GPUs of N nodes:  sbatch --nodes=N scripts/slurm/train_nodes.sh CONFIG OUT
# One process a GPU, as below; for one process a node with all its GPUs set --ntasks-per-node=1 and leave out
# --gpu-bind. The first host is the coordinator, on a port of the job's own; the start-up line says who came.
#SBATCH --job-name=cgrefine
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=USR1@120
#SBATCH --requeue
set -euo pipefail
config=$1 out=$2

status=0
srun --kill-on-bad-exit=1 --gpu-bind=none \
    cgrefine train "$config" --out "$out" --distributed slurm || status=$?
if [[ $status -eq 138 || $status -eq 143 ]]; then
    scontrol requeue "$SLURM_JOB_ID"
else
    exit "$status"
fi
