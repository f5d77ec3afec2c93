#!/bin/bash
# Strong and weak scaling over 1, 2, 4, ... nodes:  sbatch --nodes=8 scripts/slurm/scaling.sh CONFIG OUT
# CONFIG and OUT as for train, with prepare/ and priors/ in OUT. Each run adds its rows; the last page has all of them.
#SBATCH --job-name=cgrefine-scaling
#SBATCH --nodes=8
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --time=01:00:00
set -euo pipefail
config=$1 out=$2

srun --nodes=1 --ntasks=1 cgrefine scaling "$config" --out "$out"
for ((nodes = 1; nodes <= SLURM_JOB_NUM_NODES; nodes *= 2)); do
    srun --nodes="$nodes" --ntasks=$((4 * nodes)) --ntasks-per-node=4 --gpu-bind=none \
        cgrefine scaling "$config" --out "$out" --distributed slurm
done
