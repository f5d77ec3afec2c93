#!/bin/bash
# Refine a trained model on all GPUs of one node with one process:  sbatch scripts/slurm/refine.sh CONFIG OUT
# CONFIG and OUT as for train, with prepare/ and train/ in OUT, and the sections sim and refine in CONFIG. All proteins
# of the data set, or those of sim.domains, are refined together: refine.replicas are spread over them, and every
# window runs in one pack of replicas a GPU. The numbers depend on the packs, so change them only together with the
# GPUs, and before the refinement begins.
#SBATCH --job-name=cgrefine-refine
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --signal=USR1@300
#SBATCH --requeue
set -euo pipefail
config=$1 out=$2 packs=4

# 300 s before the end Slurm sends USR1: cgrefine ends after the window at hand, with its state written, and exits with
# 138 (128 + 10). A node that is taken away sends TERM: 143. The job then goes back to the queue, and goes on with the
# next window. A window must not take longer than these 300 s.
status=0
srun cgrefine refine "$config" --out "$out" --set "sim.packs=$packs" || status=$?
if [[ $status -eq 138 || $status -eq 143 ]]; then
    scontrol requeue "$SLURM_JOB_ID"
else
    exit "$status"
fi
