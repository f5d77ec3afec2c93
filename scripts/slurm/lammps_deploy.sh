#!/bin/bash
# Run the LAMMPS files of chemtrain-deploy on a GPU:  sbatch scripts/slurm/lammps_deploy.sh FILES OUT [-var steps 1000000 ...]
# FILES holds in.lammps and network.ptb; OUT is a new folder, in which LAMMPS runs. What follows goes to lmp.
# A small protein fills one GPU. For large systems raise --ntasks-per-node and --gpus-per-node together: the
# plugin gives each process the GPU of its SLURM_LOCALID, and each process must own beads.
#SBATCH --job-name=cgrefine-lammps
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
set -euo pipefail
if [[ $# -lt 2 ]]; then
    echo "usage: sbatch scripts/slurm/lammps_deploy.sh FILES OUT [options of lmp]" >&2
    exit 2
fi
files=$1 out=$2
shift 2

stop() {
    echo "$1" >&2
    exit 2
}
[[ -f $files/in.lammps && -f $files/network.ptb ]] || stop "$files: no in.lammps with a network.ptb"
[[ ! -e $out ]] || stop "$out is there already: name a new folder"
[[ -d ${LAMMPS_PLUGIN_PATH:-} ]] || stop "LAMMPS_PLUGIN_PATH must name the folder of the chemtrain_deploy plugin"
[[ -d ${JCN_PJRT_PATH:-} ]] || stop "JCN_PJRT_PATH must name the folder of pjrt_plugin.xla_*.so"

mkdir -p "$(dirname "$out")"
cp -r "$files" "$out"
cd "$out"
export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}
srun lmp -in in.lammps -log log.lammps "$@"
