"""Files for chemtrain-deploy: what the scripts say, and in LAMMPS what its own lists give the program."""

import contextlib
import re
import shutil

import numpy as np
import pytest

from cgrefine.energy import SumOfTerms
from cgrefine.export import deploy, deploy_files, ptb
from cgrefine.export.deploy_files import FILE, with_network, write_deploy
from cgrefine.export.lammps_native import FORCE_FIX
from cgrefine.export.lammps_run import import_lammps
from cgrefine.export.verify import term_values
from tests.export import density, toy

NETWORK = density.network(1, cutoff_A=9.0)
MODEL = SumOfTerms((*toy.PRIORS.terms, NETWORK))
PARAMS = {**toy.params(), "network": density.params()}
BONDED = SumOfTerms((toy.BOND, NETWORK))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("deploy") / "files"
    write_deploy(path, MODEL, PARAMS, toy.topology(), toy.frames()[:1], "toy")
    return path


@pytest.fixture(scope="module")
def bonded(tmp_path_factory):
    """Without a pair term."""
    path = tmp_path_factory.mktemp("deploy") / "files"
    write_deploy(path, BONDED, PARAMS, toy.topology(), toy.frames()[:1], "toy")
    return path


def checked(folder, params, frames):
    """The file against the network of these parameters."""
    exact = term_values(SumOfTerms((NETWORK,)), {"network": params}, toy.topology(), frames)["network"]
    return deploy_files.check(folder, toy.topology(), frames, exact)


def lines(folder) -> list[str]:
    return [line for path in folder.glob("*in*") for line in path.read_text().splitlines()]


@pytest.mark.stages
def test_the_style_stands_first_with_the_rule_for_excluded_neighbours(folder):
    said = lines(folder)
    (style,) = [line for line in said if line.startswith("pair_style")]
    assert style.startswith("pair_style hybrid/overlay chemtrain_deploy ${backend} ${memory} table spline ")
    assert "special_bonds lj 1.0e-50 1.0 1.0 coul 1.0e-50 1.0 1.0" in said
    assert sum(line.startswith("special_bonds") for line in said) == 1
    assert said.index("units real") < said.index("newton on") < said.index(style)
    load = "pair_coeff * * chemtrain_deploy network.ptb ${padding} ${padding}"
    assert said.count(load) == 1 and "include coefficients.in" in said
    assert said[said.index("include coefficients.in") + 1] == load
    for name in ("backend", "memory", "padding"):
        assert any(line.startswith(f"variable {name} index ") for line in said)


@pytest.mark.stages
def test_without_pair_terms_bonded_beads_keep_their_weight(bonded):
    said = lines(bonded)
    assert "pair_style hybrid/overlay chemtrain_deploy ${backend} ${memory}" in said
    assert "special_bonds lj 1.0 1.0 1.0 coul 1.0 1.0 1.0" in said
    assert "pair_coeff * *" not in said


def prior_script(style: str) -> str:
    """What the writer of native files makes, with other lines left out."""
    return f"# a\nunits real\n{style}\ninclude coefficients.in\ncomm_modify cutoff 15.5\nrun 1\n"


@pytest.mark.parametrize(
    "style, rest, weight",
    [
        ("pair_style zero 6.0", "", "1.0"),
        (
            "pair_style hybrid/overlay table spline 2000\nspecial_bonds lj 1.0 1.0 1.0",
            " table spline 2000",
            "1.0",
        ),
        (
            "pair_style hybrid/overlay table spline 9\nspecial_bonds lj 0.0 1.0 1.0",
            " table spline 9",
            "1.0e-50",
        ),
    ],
    ids=["no pair style", "all pairs", "exclusions"],
)
def test_the_network_joins_the_pair_styles_that_are_there(style, rest, weight):
    script = with_network(prior_script(style), NETWORK, -1.5)
    assert f"\npair_style hybrid/overlay chemtrain_deploy ${{backend}} ${{memory}}{rest}\n" in script
    assert f"\nspecial_bonds lj {weight} 1.0 1.0 coul {weight} 1.0 1.0\n" in script
    assert script.count("pair_style") == script.count("special_bonds") == 1
    assert "\nunits real\nnewton on\n" in script and "-1.500000 kcal/mol" in script
    assert script.endswith("\nrun 1\n")


def test_ghosts_reach_as_far_as_the_layers_of_the_network():
    """The plugin stops when the range is below hops × cutoff + skin."""
    plain = prior_script("pair_style zero 6.0")
    scripts = [with_network(plain, density.network(hops, cutoff_A=9.0), 0.0) for hops in (1, 2)]
    found = [re.findall(r"^comm_modify cutoff (\S+)$", script, re.MULTILINE) for script in scripts]
    assert found == [["15.5"], ["20"]]


def test_a_script_of_another_form_is_refused():
    with pytest.raises(ValueError, match="lines like"):
        with_network("# a\nunits real\npair_style lj/cut 5.0\n", NETWORK, 0.0)


@pytest.mark.stages
def test_the_file_is_the_network_with_its_container(folder):
    read = ptb.decode((folder / FILE).read_bytes())
    assert (read.cutoff_A, read.nbr_order, read.half_list, read.unit_style) == (9.0, (1, 2), True, "real")
    found = checked(folder, PARAMS["network"], toy.frames()[1:2])
    assert found.passed and max(found[:3]) > 0.0


@pytest.mark.stages
def test_another_network_fails_the_check(folder):
    other = {**PARAMS["network"], "b": PARAMS["network"]["b"] * 1.001}
    found = checked(folder, other, toy.frames()[:1])
    assert not found.passed
    assert not found._replace(newton_on=0.0, newton_off=np.nan, energy=0.0).passed


@pytest.mark.stages
def test_a_file_that_fails_its_check_is_not_left(tmp_path, monkeypatch):
    """The parameters that are written are not those that are checked."""
    honest = deploy.container

    def other(term, params):
        return honest(term, {**params, "b": 1.01 * params["b"]})

    monkeypatch.setattr(deploy, "container", other)
    with pytest.raises(ValueError, match=r"network\.ptb is not the network"):
        write_deploy(tmp_path / "files", BONDED, PARAMS, toy.topology(), toy.frames()[:1], "toy")
    assert not (tmp_path / "files").exists()


def test_a_model_without_a_network_is_refused(tmp_path):
    with pytest.raises(ValueError, match="one network"):
        write_deploy(tmp_path / "files", toy.PRIORS, PARAMS, toy.topology(), toy.frames(), "toy")


STAND_IN = "zero 9.0 full"


def stood_in(folder, to, newton_off=False):
    """A copy in which a style that does nothing has the list of the plugin: half with newton off."""
    shutil.copytree(folder, to)
    for path in to.glob("*in*"):
        text = path.read_text()
        text = text.replace("chemtrain_deploy ${backend} ${memory}", STAND_IN[: 8 if newton_off else None])
        text = text.replace("chemtrain_deploy network.ptb ${padding} ${padding}", "zero")
        path.write_text(text.replace("newton on", "newton off") if newton_off else text)
    return to


@contextlib.contextmanager
def running(folder, *commands):
    """LAMMPS with the script of a folder up to its last run."""
    lmp = import_lammps().lammps(cmdargs=["-screen", "none", "-log", "none", "-nocite"])
    try:
        with contextlib.chdir(folder):
            script = (folder / "in.lammps").read_text().rpartition("\nrun ")[0]
            for command in (script, *commands):
                lmp.commands_string(command)
        yield lmp
    finally:
        lmp.close()


def network_forces(lmp, program, newton):
    """Forces (n, 3) in bead order by the program with the list that LAMMPS made, and its values."""
    listed = lmp.numpy.get_neighlist(lmp.find_pair_neighlist("zero"))
    senders, receivers = [], []
    for element in range(listed.size):
        i, neighbours = listed.get(element)
        senders.append(np.full(len(neighbours), i))
        receivers.append(neighbours)
    i, j = np.concatenate(senders), np.concatenate(receivers)
    assert lmp.extract_global("nghost") == 0
    n = lmp.extract_global("nlocal")
    x, kinds = (np.array(lmp.numpy.extract_atom(what)[:n]) for what in ("x", "type"))
    values = program(x, kinds - 1, n, 0, newton, i, j, 2 * len(i))
    forces = np.zeros((n, 3))
    forces[lmp.numpy.extract_atom("id")[:n] - 1] = values.forces
    return forces, values, j


@pytest.mark.lammps
@pytest.mark.parametrize("newton", [True, False], ids=["on", "off"])
@pytest.mark.parametrize("terms", ["all", "bonded"])
def test_with_the_lists_of_lammps_the_model_is_whole(folder, bonded, tmp_path, newton, terms):
    """Native priors and the program on LAMMPS' own lists, sorted and moved, against all terms in float64."""
    model, written = (MODEL, folder) if terms == "all" else (BONDED, bonded)
    program = deploy.load((written / FILE).read_bytes())
    copy = stood_in(written, tmp_path / "run", newton_off=not newton)
    with running(copy, "run 50") as lmp:
        network, values, receivers = network_forces(lmp, program, newton)
        native = np.array(lmp.gather(f"f_{FORCE_FIX}", 1, 3)).reshape(-1, 3)
        x = np.array(lmp.gather_atoms("x", 1, 3)).reshape(-1, 3)
        energy = lmp.get_thermo("pe") + float(values.energy)
    exact = term_values(model, PARAMS, toy.topology(), x[None])
    forces = sum(v.forces[0] for v in exact.values())
    assert np.abs(native + network - forces).max() < 1e-4 * np.sqrt(np.mean(forces**2))
    assert energy == pytest.approx(sum(v.energy[0] for v in exact.values()), abs=1e-3)
    marked = (receivers < 0) | (receivers >= 24)
    assert marked.any() == (terms == "all")


@pytest.mark.lammps
@pytest.mark.parametrize("terms", ["all", "bonded"])
def test_with_weights_of_zero_the_network_loses_neighbours(folder, bonded, tmp_path, terms):
    """The planted fault: what excludes pairs from a style by 0 excludes them from the list of the network."""
    written = folder if terms == "all" else bonded
    copy = stood_in(written, tmp_path / "run")
    for path in copy.glob("*in*"):
        text = re.sub(r"special_bonds .*", "special_bonds lj/coul 0.0 1.0 1.0", path.read_text())
        path.write_text(text)
    program = deploy.load((written / FILE).read_bytes())
    with running(copy, "run 0") as lmp:
        network, _, _ = network_forces(lmp, program, True)
        x = np.array(lmp.gather_atoms("x", 1, 3)).reshape(-1, 3)
    exact = term_values(SumOfTerms((NETWORK,)), PARAMS, toy.topology(), x[None])["network"].forces[0]
    assert np.abs(network - exact).max() > 0.1 * np.sqrt(np.mean(exact**2))
