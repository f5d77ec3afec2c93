"""The section `toy`: what contradicts itself is told before anything is computed."""

import pytest

from cgrefine.config import parse
from cgrefine.config.toy import Toy
from cgrefine.errors import InputError

CASE = {"name": "one", "potential": "coupled", "models": ["silu", "spline"]}
TRAIN = {"epochs": 2, "decoy_fraction": 0}
LOOP = {"strain_weight": 0, "relative_entropy": 0, "targets": [{"observable": "x"}]}


def toy(**given) -> Toy:
    found = parse({"toy": {"cases": [CASE], "train": TRAIN, **given}}, "test").toy
    assert found is not None
    return found


def test_what_is_given_wins():
    found = toy(members=2, refinement={"case": "one", "loop": LOOP})
    assert (
        found.members == 2 and found.refinement is not None and found.refinement.loop.targets[0].kind == "cdf"
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"cases": [{**CASE, "models": ["silu", "silu"]}]}, "named twice"),
        ({"cases": [{**CASE, "models": ["swish"]}]}, "toy.cases.0.models.0 = 'swish'"),
        ({"cases": [CASE, CASE]}, "a name of its own"),
        ({"cases": [{**CASE, "sampling": "langevin"}]}, "sampling_kT_kcal_mol"),
        ({"cases": [{**CASE, "sampling_kT_kcal_mol": 2}]}, "sampling_kT_kcal_mol"),
        ({"cases": [{**CASE, "simulated": "tanh"}]}, "is not one of the models"),
        ({"cases": [{**CASE, "simulated": "spline"}]}, "must be an energy network"),
        ({"train": {"epochs": 2}}, "a particle has no decoys"),
        ({"dynamics": {"save_every_ps": 100}}, "from a time step to duration_ps"),
        ({"refinement": {"case": "two", "loop": LOOP}}, "choose from one"),
        ({"refinement": {"case": "one", "loop": {**LOOP, "targets": []}}}, "nothing to learn from"),
        ({"refinement": {"case": "one", "loop": {**LOOP, "targets": [{"observable": "Rg"}]}}}, "must be one"),
        ({"refinement": {"case": "one", "loop": {**LOOP, "strain_weight": 1}}}, "no strain"),
        ({"kT": 1.0}, "unknown key"),
    ],
)
def test_wrong_input_is_told(given, message):
    with pytest.raises(InputError, match=message):
        toy(**given)
