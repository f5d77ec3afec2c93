"""Run by an interpreter that has chemtrain: its ForceMatching trainer on our template, for a few epochs.

Argument: a folder with forcefield/ (the teacher) and data.npz; writes found.npz there: the teacher's forces
in this interpreter's jax, and the losses of a student that starts from the teacher's parameters times 1.3.
"""

import os
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from chemtrain.trainers import ForceMatching  # pyright: ignore[reportMissingImports]
from jax_md import partition, space
from jax_md_mod.custom_partition import masked_neighbor_list  # pyright: ignore[reportMissingImports]

from cgrefine.fm import forcefield
from cgrefine.interop.chemtrain import energy_fn_template


def main(folder: Path) -> None:
    """See the module."""
    data = {key: value for key, value in np.load(folder / "data.npz").items()}
    teacher = forcefield.load(folder / "forcefield")
    template, params = energy_fn_template(teacher.model), teacher.cast(jnp.float64)
    displacement, _ = space.free()
    lists = masked_neighbor_list(
        displacement, 1.0, teacher.model.cutoff_A, 0.0, 3.0, format=partition.NeighborListFormat.Dense
    )
    nbrs = lists.allocate(jnp.asarray(data["R"][0]), mask=jnp.asarray(data["mask"][0]))
    trainer = ForceMatching(
        jax.tree_util.tree_map(lambda leaf: 1.3 * leaf, params),
        optax.adam(0.02),
        template,
        nbrs,
        batch_per_device=4,
        batch_cache=2,
        log_file=str(folder / "chemtrain.log"),
        checkpoint_path=str(folder / "checkpoints"),
    )
    forces = trainer.predict(data, params, batch_size=4)["F"]
    for stage in ("training", "validation"):
        trainer.set_dataset(data, stage=stage)
    trainer.train(6, checkpoint_freq=None)
    np.savez(
        folder / "found.npz",
        forces=np.asarray(forces),
        losses=np.asarray(trainer.train_losses, np.float64),
        jax=np.asarray(jax.__version__),
    )


if __name__ == "__main__":
    os.chdir(sys.argv[1])
    main(Path(sys.argv[1]))
