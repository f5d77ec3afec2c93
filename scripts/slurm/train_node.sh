#!/bin/bash
# Train on all GPUs of one node with one process:  sbatch scripts/slurm/train_node.sh CONFIG OUT
#SBATCH --job-name=cgrefine
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --signal=USR1@120
#SBATCH --requeue
set -euo pipefail
config=$1 out=$2

# 120 s before the end Slurm sends USR1: cgrefine writes a checkpoint and exits with 138 (128 + 10). A node that is
# taken away sends TERM: 143. The job then goes back to the queue and goes on from the checkpoint.
status=0
srun cgrefine train "$config" --out "$out" --distributed auto || status=$?
if [[ $status -eq 138 || $status -eq 143 ]]; then
    scontrol requeue "$SLURM_JOB_ID"
else
    exit "$status"
fi
