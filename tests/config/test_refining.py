"""The section `refine`: modes are defaults, what is given wins, and contradictions are told."""

import pytest
import yaml

from cgrefine.config import dump, parse
from cgrefine.config.refining import MODES, Refine
from cgrefine.errors import InputError


def refine(**given) -> Refine:
    found = parse({"refine": given}, "test").refine
    assert found is not None
    return found


@pytest.mark.parametrize("mode", list(MODES))
def test_a_mode_is_the_defaults_with_its_own_values(mode):
    found, plain = refine(mode=mode).model_dump(), refine().model_dump()
    own = MODES[mode]
    for name, value in plain.items():
        if name in ("mode", "forces", "targets"):
            continue
        assert found[name] == own.get(name, value), name
    assert found["forces"] == {**plain["forces"], **own.get("forces", {})}
    if "targets" in own:
        names = [t["observable"] for t in own["targets"]]
        assert [t["observable"] for t in found["targets"]] == names
    else:
        assert found["targets"] == plain["targets"]
    assert found["mode"] == mode


def test_modes_are_what_was_published():
    """StABlE: SGD at 1e-3, clipped, force gradient times 10, minibatches of 40, until none fails."""
    stable = refine(mode="stable")
    assert (stable.optimizer, stable.learning_rate, stable.clip_norm) == ("sgd", 1e-3, 1.0)
    assert (stable.forces.combine, stable.forces.weight, stable.minibatch_frames) == ("weighted", 10.0, 40)
    assert (stable.product, stable.restart, stable.leave_failed) == ("minibatch", "tripped", 0.0)
    assert (stable.enter_failed, stable.random_reset, stable.plateau_factor) == (0.75, 0.05, 0.2)
    assert [(t.observable, t.kind) for t in stable.targets] == [("P(r)", "mse")]
    assert refine(mode="difftre").explore_windows == 0 and refine(mode="difftre").cycles == 1
    entropy = refine(mode="relative_entropy")
    assert entropy.targets == [] and entropy.relative_entropy == 1.0 and entropy.forces.combine == "none"


def test_a_given_field_wins_over_the_mode():
    found = refine(mode="stable", optimizer="adam", targets=[{"observable": "Rg"}])
    assert found.optimizer == "adam" and found.product == "minibatch"
    assert [t.observable for t in found.targets] == ["Rg"]
    back = parse(yaml.safe_load(dump(parse({"refine": {"mode": "stable", "epochs": 5}}, "x"))), "dump").refine
    assert back == refine(mode="stable", epochs=5)


def test_forces_are_merged_field_by_field():
    found = refine(mode="stable", forces={"batch_beads": 50}).forces
    assert (found.batch_beads, found.combine, found.weight) == (50, "weighted", 10.0)
    found = refine(mode="stable", forces={"combine": "projection"}).forces
    assert (found.combine, found.weight, found.control_variate) == ("projection", 10.0, False)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"mode": "stabel"},
            r"refine\.mode = 'stabel': .*'refine', 'stable', 'difftre' or 'relative_entropy'",
        ),
        ({"mode": "stable", "epocs": 3}, r"refine\.epocs: unknown key \(did you mean epochs\?\)"),
        (
            {"forces": {"tolerence": 0.1}},
            r"refine\.forces\.tolerence: unknown key \(did you mean tolerance\?\)",
        ),
        ({"mode": "stable", "forces": {"wieght": 1}}, r"refine\.forces\.wieght: unknown key .*weight"),
        ({"targets": [{"observabel": "Rg"}]}, r"observabel: unknown key"),
        ({"forces": 3}, r"refine\.forces = 3"),
        ({"mode": "difftre", "targets": []}, "nothing to learn from"),
        ({"mode": "relative_entropy", "relative_entropy": 0}, "nothing to learn from"),
        (
            {"mode": "difftre", "restart": "tripped"},
            "tripped needs a phase of exploring; explore_windows is 0",
        ),
        ({"mode": "stable", "keep_windows": 2}, "keep_windows must be 1"),
        ({"window_ps": 1.0, "save_every_ps": 0.6}, "leaves fewer than two frames in a window of 1.0 ps"),
        ({"targets": [{"observable": "Rg", "domain": "a"}]}, "domain is of a target from a file"),
        ({"epochs": 1}, r"refine\.epochs = 1"),
        ({"terms": []}, r"refine\.terms = \[\]: .*at least 1 item"),
        ({"leave_failed": 1.5}, r"refine\.leave_failed = 1\.5"),
    ],
)
def test_what_contradicts_itself_is_told(given, message):
    with pytest.raises(InputError, match=message):
        refine(**given)
