"""The whole configuration: one frozen model a section, extra keys forbidden, defaults there and nowhere else.

A value that changes the physics (temperature, cutoff, time step) has no default: the user states it.
"""

from cgrefine.config.base import Section
from cgrefine.config.data import Cluster, Data, ForceMap, Loader, Store
from cgrefine.config.priors import Priors
from cgrefine.config.refining import Refine
from cgrefine.config.running import Ablate, Audit, Export, Lammps, Observables, Sim
from cgrefine.config.toy import Toy
from cgrefine.config.training import Model, Train


class Config(Section):
    """All sections. A stage that needs a section which is not given says so."""

    data: Data | None = None
    force_map: ForceMap = ForceMap()
    store: Store = Store()
    cluster: Cluster = Cluster()
    loader: Loader = Loader()
    priors: Priors = Priors()
    model: Model | None = None
    train: Train | None = None
    sim: Sim | None = None
    refine: Refine | None = None
    observables: Observables = Observables()
    audit: Audit = Audit()
    export: Export = Export()
    lammps: Lammps = Lammps()
    ablate: Ablate = Ablate()
    toy: Toy | None = None
