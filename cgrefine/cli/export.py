"""`cgrefine export`: the trained or refined model of one protein as a bundle for other programs."""

from pathlib import Path

from cgrefine.artifacts import Stage, require
from cgrefine.cli.console import Console
from cgrefine.cli.force_field import exported_at, final_stage
from cgrefine.config.schema import Config
from cgrefine.data.store import open_dataset
from cgrefine.export.bundle import Bundle, load_bundle, write_bundle
from cgrefine.report.page import Section, Table, write_page


def build(stage: Stage, config: Config, root: Path, console: Console) -> None:
    """Write bundle/ and report.html, read the bundle back, and record how far it is from the reference."""
    force_field = exported_at(final_stage(root, "export", config), config, console)
    dataset = open_dataset(require(root, "prepare", "export"))
    settings = config.export
    domain = dataset.domains[0] if settings.domain is None else dataset.domain(settings.domain)
    folder = stage.path / "bundle"
    console.say(f"writing the bundle of {domain.name}")
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
    console.say("reading it back, compiling and testing it")
    bundle = load_bundle(folder)
    record = stage.record
    record.metric("bundle_bytes", sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()), "B")
    record.metric("n_beads", domain.topology.n_beads)
    if bundle.network is not None and bundle.selftest is not None:
        found, limit = bundle.selftest.max_force_error, bundle.selftest.force_limit
        record.metric("edge_capacity", bundle.network.n_edges)
        record.metric("selftest_max_force_error_kcal_mol_A", found, "kcal/mol/Å")
        record.check("selftest_max_force_error_kcal_mol_A", found <= limit, found, limit)
    write_page(stage.path / "report.html", f"Bundle of {domain.name}", _sections(bundle))


def _sections(bundle: Bundle) -> list[Section]:
    files = [
        (name, (bundle.folder / name).stat().st_size, sha[:12])
        for name, sha in sorted(bundle.meta["sha256"].items())
    ]
    terms = [(t["name"], t["kind"], t["cutoff_A"]) for t in bundle.meta["terms"]]
    sections = [
        Section("Terms", table=Table(("term", "leaves as", "cutoff Å"), terms)),
        Section("Files", "LAMMPS input is in bundle/lammps.", Table(("file", "bytes", "sha256"), files)),
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
        f"against the same network in float64 on {len(bundle.positions)} frames. It has room for "
        f"{described['n_edges']} edges within {described['cutoff_A']} Å."
    )
    return [Section("Self-test", text, Table(("quantity", "largest difference", "limit"), rows)), *sections]
