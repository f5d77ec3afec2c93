"""`cgrefine export`: the trained or refined model as a bundle for other programs."""

from pathlib import Path
from typing import Literal

from cgrefine.artifacts import Stage, require
from cgrefine.cli import export_check
from cgrefine.cli.console import Console
from cgrefine.cli.export_check import Row
from cgrefine.cli.force_field import exported_at, final_stage
from cgrefine.config.running import Export
from cgrefine.config.schema import Config
from cgrefine.data.store import open_dataset
from cgrefine.energy import NetworkTerm
from cgrefine.errors import InputError
from cgrefine.export import lammps_jax
from cgrefine.export.bundle import Bundle, write_bundle
from cgrefine.export.deploy_files import write_deploy
from cgrefine.export.loaded import load_model
from cgrefine.export.sealed import SEAL, check_seal, write_zip
from cgrefine.fm.forcefield import ForceField
from cgrefine.fm.priors.terms import prior_terms
from cgrefine.report.page import Section, Table, write_page

DIGEST = "digest.txt"


def build(stage: Stage, config: Config, root: Path, console: Console) -> None:
    """Write bundle/ (bundle.zip, deploy/, one for lammps-jax), digest.txt and report.html; read them back and
    verify them.

    Raises InputError when one fails a verification: the stage has no folder then.
    """
    force_field = exported_at(final_stage(root, "export", config), config, console)
    dataset = open_dataset(require(root, "prepare", "export"))
    settings = config.export
    domain = dataset.domains[0] if settings.domain is None else dataset.domain(settings.domain)
    folder = stage.path / "bundle"
    console.say(f"writing the bundle, with {domain.name} as its reference, compiling and testing it")
    write_bundle(
        folder,
        force_field.model,
        force_field.params,
        domain.topology,
        domain.positions[:],
        domain.name,
        settings,
        force_field.facts,
    )
    loaded = load_model(folder, prior_terms)
    rows = export_check.at_once(loaded)
    if failed := [row for row in rows if row.passed is False]:
        told = "; ".join(f"{row.name}: found {row.found}, limit {row.limit}" for row in failed)
        raise InputError(f"export: the bundle failed its own check ({told})")
    bundle = loaded.bundle
    if settings.chemtrain_deploy and bundle.network is not None:
        rows += _deploy(stage.path / export_check.DEPLOY, force_field, bundle, console)
    if settings.lammps_jax is not None and bundle.network is not None:
        file = stage.path / lammps_jax.FILE
        rows += _lammps_jax(file, settings.lammps_jax, force_field, bundle, settings, console)
    if settings.zip:
        write_zip(folder, stage.path / "bundle.zip")
    (stage.path / DIGEST).write_text(f"{bundle.digest}\n")
    console.result(f"digest of the bundle: {bundle.digest}")
    record = stage.record
    record.metric("bundle_bytes", sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()), "B")
    record.metric("reference_beads", domain.topology.n_beads)
    if bundle.selftest is not None:
        found, limit = bundle.selftest.max_force_error, bundle.selftest.force_limit
        record.metric("selftest_max_force_error_kcal_mol_A", found, "kcal/mol/Å")
        record.check("selftest_max_force_error_kcal_mol_A", found <= limit, found, limit)
    verified = Section(
        "Verified", "All of them, LAMMPS too: cgrefine export --check.", export_check.table(rows)
    )
    write_page(stage.path / "report.html", "Bundle", [verified, *_sections(bundle)])


def _deploy(folder: Path, force_field: ForceField, bundle: Bundle, console: Console) -> list[Row]:
    """Files for chemtrain-deploy, of the protein and frames of the bundle."""
    console.say(f"writing {folder.name}/ for chemtrain-deploy, and running it in two domains")
    model, params, name = force_field.model, force_field.params, bundle.meta["reference_protein"]
    try:
        found = write_deploy(folder, model, params, bundle.topology, bundle.positions, name)
    except ValueError as error:
        raise InputError(f"export: {error}; without it: --set export.chemtrain_deploy=false") from error
    return export_check.deploy_rows(found)


def _lammps_jax(
    path: Path,
    platform: Literal["cpu", "cuda"],
    force_field: ForceField,
    bundle: Bundle,
    settings: Export,
    console: Console,
) -> list[Row]:
    """The bundle of lammps-jax, of the protein and frames of the bundle."""
    console.say(f"writing {path.name} for lammps-jax, and running it in two domains")
    (term,) = (t for t in force_field.model.terms if isinstance(t, NetworkTerm))
    given = settings.lammps_jax_beads, settings.lammps_jax_edges
    rooms = lammps_jax.rooms_for(bundle.positions, term.cutoff_A, *given)
    x, exact = export_check.at_ends(bundle)
    params = force_field.params[term.name]
    try:
        found = lammps_jax.write_lammps_jax(path, term, params, bundle.topology, x, exact, platform, rooms)
    except (ValueError, InputError) as error:
        raise InputError(f"export: {error}; without it: --set export.lammps_jax=null") from error
    return export_check.lammps_jax_rows(found)


def _sections(bundle: Bundle) -> list[Section]:
    files = [
        (name, (bundle.folder / name).stat().st_size, sha[:12])
        for name, sha in sorted(check_seal(bundle.folder).items())
    ]
    terms = [(t["name"], t["kind"], t["cutoff_A"]) for t in bundle.meta["terms"]]
    sections = [
        Section("Terms", table=Table(("term", "leaves as", "cutoff Å"), terms)),
        Section(
            "Files",
            f"{SEAL} has sha256 {bundle.digest}, the digest.",
            Table(("file", "bytes", "sha256"), files),
        ),
    ]
    tested, described = bundle.selftest, bundle.meta["network"]
    if tested is None or described is None:
        return sections
    rows = [
        ("force, kcal/mol/Å", tested.max_force_error, tested.force_limit),
        ("energy, kcal/mol", tested.max_energy_error, ""),
        ("virial, kcal/mol", tested.max_virial_error, ""),
    ]
    text = (
        f"The network as StableHLO {described['stablehlo_target']} in float32, compiled again from the file, "
        f"against the same network in float64 on {len(bundle.positions)} frames of "
        f"{bundle.meta['reference_protein']}. Numbers of beads and of edges within "
        f"{described['cutoff_A']} Å are symbols: it is compiled for each protein that it is run with."
    )
    return [Section("Self-test", text, Table(("quantity", "largest difference", "limit"), rows)), *sections]
