"""The command line. `--help` imports neither jax nor the configuration; each command imports what it runs."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    name="cgrefine",
    help="Coarse-grained protein force fields from all-atom MD with forces: "
    "sample → inspect → prepare → priors → train → evaluate → simulate → observe → audit → refine → export → "
    "lammps.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ConfigFile = Annotated[Path, typer.Argument(help="YAML configuration", metavar="CONFIG")]
Out = Annotated[Path, typer.Option("--out", help="run folder: every stage reads and writes below it")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="override one value; repeatable"),
]
Force = Annotated[bool, typer.Option("--force", help="run even if the folder is complete")]
Strict = Annotated[bool, typer.Option("--strict", help="exit with 3 when a check of the stage fails")]
Quiet = Annotated[bool, typer.Option("--quiet", help="no progress")]
Ungated = Annotated[bool, typer.Option("--allow-ungated", help="train on priors that failed their gate")]
Resume = Annotated[
    str, typer.Option("--resume", metavar="auto|never", help="go on from where the same work was interrupted")
]
Distributed = Annotated[
    str | None,
    typer.Option("--distributed", metavar="auto|slurm|HOST:PORT", help="train together with other processes"),
]
Processes = Annotated[
    int | None, typer.Option("--processes", help="how many train together (with HOST:PORT)")
]
Process = Annotated[int | None, typer.Option("--process", help="which of them this is, from 0")]

Digest = Annotated[
    str | None, typer.Option("--digest", metavar="SHA256", help="refuse a bundle with another digest")
]

Model = Annotated[
    Path | None,
    typer.Option("--model", metavar="PATH", help="a train, priors or export folder, instead of OUT/train"),
]

STAGES = {
    "prepare": (
        "All-atom MD to a CG data set: Cα positions, optimally projected forces, split.",
        "data.raw (mdCATH HDF5 files), data.trajectories (TRR, NetCDF, npz), data.coarse (npz of beads)",
        "domains/*/*.npy, dataset.json, failures.json, noise.json, report.html",
    ),
    "priors": (
        "Boltzmann-inverted bonds, angles, dihedrals and repulsion, and the gate: what they do alone.",
        "prepare/",
        "forcefield/, gate.json, diagnostics.json, report.html",
    ),
    "train": (
        "Force matching of the network on top of the priors.",
        "prepare/, priors/",
        "forcefield/, checkpoints/, tensorboard/, log.csv, report.html",
    ),
    "evaluate": (
        "Force errors on validation frames by residue, position, component, temperature, protein and term, "
        "against priors, no model and a noise floor.",
        "prepare/, train/",
        "evaluation.json, histograms.npz, figures, report.html",
    ),
    "simulate": (
        "Langevin MD of many replicas in one compiled program.",
        "prepare/ (start frames), train/",
        "trajectories/*.dcd, topology/*.pdb, failures/*.pdb, replicas.csv, log.csv, report.html",
    ),
    "observe": (
        "Bond, angle, dihedral, P(r), contact and Rg distributions against the reference.",
        "prepare/, simulate/",
        "observables.json, figures, report.html",
    ),
    "audit": (
        "Stability verdict with error bars: survival, temperatures, NVE drift, time steps, holes, mirror "
        "images. With --model and --reference: of any force field, without a run folder; with two, compared.",
        "prepare/, train/, simulate/ of a run, or a force field and a data set",
        "audit.json, report.html",
    ),
    "refine": (
        "Stability-aware refinement: simulate, find where the model fails, correct it against observables "
        "and reference structures without losing force accuracy, and judge the result.",
        "prepare/, train/",
        "forcefield/, pre/, control/, checkpoints/, evaluation/, log.csv, final_metrics.json, report.html",
    ),
    "audit_refined": (
        "The audit of the refined model, from replicas of its own: what `audit --model` does.",
        "prepare/, refine/",
        "audit.json, report.html, model0/ (what `simulate` writes)",
    ),
    "export": (
        "The deployment bundle for any protein: StableHLO network, priors, reference frames. With --check: "
        "everything that can be verified of it; with --bundle, of that one alone.",
        "prepare/, train/ (refine/ where the config has that section)",
        "bundle/, bundle.zip (export.zip), digest.txt, report.html",
    ),
    "lammps": (
        "Run the bundle in LAMMPS and check its forces. With --bundle and --pdb: any bundle and protein, "
        "without a run folder.",
        "export/, train/ or refine/, prepare/; or a bundle and a PDB file",
        "files/ (data, tables, input script), the LAMMPS log, forces, report.html",
    ),
    "toy": (
        "The whole method on a particle in a plane whose mean force is known: fits, priors, refinement.",
        "the section toy of the config",
        "table.csv, curves.npz, figures, report.html",
    ),
}
EXAMPLES = {"toy": "cgrefine toy configs/cgnet_2d.yaml --out runs"}
"""Of commands for which the quickstart is none."""


@app.command(
    epilog="Input: a config with data, model, train and sim. Output: one folder a stage below --out. "
    "Example: cgrefine run configs/quickstart.yaml --out runs/quickstart"
)
def run(
    config: ConfigFile,
    out: Out,
    overrides: Overrides = None,
    force: Force = False,
    strict: Strict = False,
    allow_ungated: Ungated = False,
    quiet: Quiet = False,
) -> None:
    """Chain all stages; those whose folder is complete for the same resolved config are skipped."""
    from cgrefine.cli.console import Console
    from cgrefine.cli.stages import result_rows, run_chain
    from cgrefine.config import load_config

    console = Console(quiet)
    options = {"force": force, "strict": strict, "allow_ungated": allow_ungated}
    ran = run_chain(load_config(config, overrides or ()), out, console, **options)
    rows = result_rows(out, [name for name, _ in ran])
    console.table(f"cgrefine run → {out}", ("stage", "result", "checks", "seconds"), rows)
    console.result(f"pages: {out}/<stage>/report.html")


def _stage(
    name: str,
    config: Path,
    out: Path,
    overrides: list[str] | None,
    quiet: bool,
    speaks: bool = True,
    **options: Any,
) -> None:
    from cgrefine.cli.console import Console
    from cgrefine.cli.stages import result_rows, run_stage
    from cgrefine.config import load_config

    console = Console(quiet or not speaks)
    run_stage(name, load_config(config, overrides or ()), out, console, **options)
    if not speaks:
        return
    rows = result_rows(out, [name])
    console.table(f"{name} → {out / name}", ("stage", "result", "checks", "seconds"), rows)


def _stage_command(name: str) -> Callable[..., None]:
    def command(
        config: ConfigFile,
        out: Out,
        overrides: Overrides = None,
        force: Force = False,
        strict: Strict = False,
        quiet: Quiet = False,
    ) -> None:
        _stage(name, config, out, overrides, quiet, force=force, strict=strict)

    def train(
        config: ConfigFile,
        out: Out,
        overrides: Overrides = None,
        force: Force = False,
        strict: Strict = False,
        allow_ungated: Ungated = False,
        resume: Resume = "auto",
        distributed: Distributed = None,
        processes: Processes = None,
        process: Process = None,
        quiet: Quiet = False,
    ) -> None:
        from cgrefine.cli.train_options import joined, resumes

        again = resumes(resume)
        first = joined(distributed, processes, process)
        options = {"force": force, "strict": strict, "allow_ungated": allow_ungated, "resume": again}
        _stage(name, config, out, overrides, quiet, first, **options)

    def audit(
        out: Out,
        config: Annotated[Path | None, typer.Argument(help="YAML configuration", metavar="[CONFIG]")] = None,
        model: Annotated[
            list[str] | None,
            typer.Option("--model", metavar="PATH", help="a force field instead of a run; repeatable"),
        ] = None,
        reference: Annotated[
            Path | None, typer.Option("--reference", metavar="DATA", help="data set for --model")
        ] = None,
        overrides: Overrides = None,
        force: Force = False,
        strict: Strict = False,
        resume: Resume = "auto",
        quiet: Quiet = False,
    ) -> None:
        from cgrefine.cli.audit_options import audit_models, check_options
        from cgrefine.cli.train_options import resumes

        check_options(config, model, reference)
        options = {"force": force, "strict": strict, "resume": resumes(resume)}
        if model:
            assert reference is not None
            audit_models(model, reference, config, overrides or (), out, quiet, **options)
        else:
            assert config is not None
            _stage(name, config, out, overrides, quiet, **options)

    def simulate(
        config: ConfigFile,
        out: Out,
        overrides: Overrides = None,
        model: Model = None,
        eval_model: Annotated[
            str | None,
            typer.Option(
                "--eval-model",
                metavar="NAME",
                help="a model of OUT/refine: pre, post, control, post_cycle{i} or post_cycle{i}_epoch{j}",
            ),
        ] = None,
        force: Force = False,
        strict: Strict = False,
        resume: Resume = "auto",
        quiet: Quiet = False,
    ) -> None:
        from cgrefine.cli.force_field import chosen_model
        from cgrefine.cli.train_options import resumes

        chosen = chosen_model(out, model, eval_model)
        options = {"force": force, "strict": strict, "resume": resumes(resume), "model": chosen}
        _stage(name, config, out, overrides, quiet, **options)

    def refine(
        config: ConfigFile,
        out: Out,
        overrides: Overrides = None,
        force: Force = False,
        strict: Strict = False,
        resume: Resume = "auto",
        quiet: Quiet = False,
    ) -> None:
        from cgrefine.cli.train_options import resumes

        _stage(name, config, out, overrides, quiet, force=force, strict=strict, resume=resumes(resume))

    def export(
        config: Annotated[Path | None, typer.Argument(help="YAML configuration", metavar="[CONFIG]")] = None,
        out: Annotated[Path | None, typer.Option("--out", help="run folder, with a CONFIG")] = None,
        overrides: Overrides = None,
        check: Annotated[
            bool, typer.Option("--check", help="verify all that can be, LAMMPS too, and print a table")
        ] = False,
        bundle: Annotated[
            Path | None, typer.Option("--bundle", metavar="PATH", help="check this one; no CONFIG then")
        ] = None,
        digest: Digest = None,
        force: Force = False,
        strict: Strict = False,
        quiet: Quiet = False,
    ) -> None:
        from cgrefine.cli.console import Console
        from cgrefine.cli.deploy_options import bundle_to_check
        from cgrefine.cli.export_check import check as verify
        from cgrefine.cli.export_check import check_stage

        if (path := bundle_to_check(config, out, bundle, digest, check)) is not None:
            verify(path, Console(quiet), digest)
            return
        assert config is not None and out is not None
        _stage(name, config, out, overrides, quiet, force=force, strict=strict)
        if check:
            check_stage(out, Console(quiet))

    def lammps(
        out: Out,
        config: Annotated[Path | None, typer.Argument(help="YAML configuration", metavar="[CONFIG]")] = None,
        bundle: Annotated[
            Path | None, typer.Option("--bundle", metavar="PATH", help="a bundle (folder or zip); no CONFIG")
        ] = None,
        pdb: Annotated[
            Path | None, typer.Option("--pdb", metavar="FILE", help="the protein to run with --bundle")
        ] = None,
        digest: Digest = None,
        steps: Annotated[int | None, typer.Option("--steps", help="lammps.steps")] = None,
        timestep_fs: Annotated[float | None, typer.Option(help="lammps.timestep_fs")] = None,
        temperature_K: Annotated[float | None, typer.Option(help="lammps.temperature_K")] = None,
        friction_per_ps: Annotated[float | None, typer.Option(help="lammps.friction_per_ps")] = None,
        ranks: Annotated[int | None, typer.Option(help="lammps.ranks")] = None,
        seed: Annotated[int | None, typer.Option(help="lammps.seed")] = None,
        overrides: Overrides = None,
        force: Force = False,
        strict: Strict = False,
        quiet: Quiet = False,
    ) -> None:
        from cgrefine.cli.deploy_options import check_lammps_options

        named = {
            "steps": steps, "timestep_fs": timestep_fs, "temperature_K": temperature_K,
            "friction_per_ps": friction_per_ps, "ranks": ranks, "seed": seed,
        }  # fmt: skip
        given = [f"lammps.{key}={value}" for key, value in named.items() if value is not None]
        given += overrides or []
        check_lammps_options(config, bundle, pdb, digest)
        if bundle is None or pdb is None:
            assert config is not None
            _stage(name, config, out, given, quiet, force=force, strict=strict)
            return
        from cgrefine.cli.console import Console
        from cgrefine.cli.lammps import run_bundle

        run_bundle(bundle, pdb, given, out, Console(quiet), digest, force=force, strict=strict)

    own = {
        "train": train, "simulate": simulate, "audit": audit, "refine": refine, "export": export,
        "lammps": lammps,
    }  # fmt: skip
    chosen = own.get(name, command)
    chosen.__doc__, reads, writes = STAGES[name]
    chosen.__name__ = name
    epilog = (
        f"Input: {reads}. Output: OUT/{name}/ with {writes}, metrics.json, provenance.json, config.yaml. "
        f"Example: {EXAMPLES.get(name, f'cgrefine {name} configs/quickstart.yaml --out runs/quickstart')}"
    )
    return app.command(name, epilog=epilog)(chosen)


for _name in STAGES:
    _stage_command(_name)


@app.command(
    epilog="Input: a config with data, model, train and sim. Output: OUT/prepare/, OUT/priors/, a run folder "
    "OUT/ablate/VARIANT-SEED/ each, OUT/ablate/ablation.json and report.html. "
    "Example: cgrefine ablate configs/quickstart.yaml --out runs/ablation"
)
def ablate(
    config: ConfigFile,
    out: Out,
    overrides: Overrides = None,
    allow_ungated: Ungated = False,
    quiet: Quiet = False,
) -> None:
    """Priors alone, network alone and both, trained and simulated with several seeds, and compared."""
    from cgrefine.cli.ablate import run_ablation
    from cgrefine.cli.console import Console
    from cgrefine.config import load_config

    run_ablation(load_config(config, overrides or ()), out, Console(quiet), allow_ungated)


@app.command(
    epilog="Input: a config with model and train; OUT/prepare/ and OUT/priors/. Output: OUT/scaling/ with "
    "scaling.json, scaling.png and report.html; runs on other numbers of devices add to it. "
    "Example: cgrefine scaling configs/quickstart.yaml --out runs/quickstart"
)
def scaling(
    config: ConfigFile,
    out: Out,
    overrides: Overrides = None,
    updates: Annotated[int, typer.Option("--updates", min=3, help="measured, for each number")] = 20,
    distributed: Distributed = None,
    processes: Processes = None,
    process: Process = None,
    quiet: Quiet = False,
) -> None:
    """Time a training update on 1, 2, 4, ... devices, and fit the laws of Amdahl and Gustafson."""
    from cgrefine.cli.console import Console
    from cgrefine.cli.scaling import measure
    from cgrefine.cli.train_options import joined
    from cgrefine.config import load_config

    first = joined(distributed, processes, process)
    measure(load_config(config, overrides or ()), out, Console(quiet or not first), updates)


@app.command(
    epilog="Input: none. Output: three mdCATH HDF5 files in DIRECTORY. Example: cgrefine sample my_sample"
)
def sample(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="where to write the files")],
) -> None:
    """Write out the embedded sample: three peptides of real all-atom MD in the mdCATH schema."""
    from cgrefine.cli.console import Console
    from cgrefine.cli.sample import copy_sample

    for path in copy_sample(directory):
        Console().result(str(path))


@app.command(
    epilog="Input: a CONFIG (its data), raw files, folders or globs, a data set, a stage or run folder. "
    "Output: tables, and a page with --html. Example: cgrefine inspect configs/quickstart.yaml"
)
def inspect(
    paths: Annotated[
        list[str], typer.Argument(metavar="CONFIG|PATH...", help="config, files, folders, globs")
    ],
    overrides: Overrides = None,
    limit: Annotated[
        float, typer.Option("--coordinate-limit", help="Å; frames beyond it are counted as bad")
    ] = 1.0e4,
    stride: Annotated[int, typer.Option("--stride", min=1, help="look at every n-th frame")] = 1,
    verify: Annotated[bool, typer.Option("--verify", help="compare every hash of a data set")] = False,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="write a page")] = None,
    estimate: Annotated[
        Path | None,
        typer.Option("--estimate", metavar="CONFIG", help="measure a training step of this config"),
    ] = None,
) -> None:
    """Show what raw files, a data set or a stage hold: residues, temperatures, forces, bad frames, costs."""
    from cgrefine.cli.console import Console
    from cgrefine.cli.inspect import Options, inspect_data
    from cgrefine.cli.inspect import inspect as show
    from cgrefine.config import load_config
    from cgrefine.errors import InputError

    chosen = None if estimate is None else load_config(estimate, overrides or ())
    options = Options(limit, stride, verify, html, chosen)
    if Path(paths[0]).suffix not in (".yaml", ".yml"):
        show(paths, options, Console())
        return
    data = load_config(paths[0], overrides or ()).data
    if data is None:
        raise InputError("config: inspect needs the section `data`, which is not given")
    inspect_data(data, options._replace(limit_A=data.coordinate_limit_A), Console())


@app.command(
    epilog="Input: run folders, their train or priors folders, or folders of force fields; a data set. "
    "Output: OUT/comparison.json, differences.png and report.html. "
    "Example: cgrefine compare runs/one runs/two --out runs/compared"
)
def compare(
    paths: Annotated[
        list[str], typer.Argument(metavar="RUN|FORCEFIELD...", help="two or more; the first is the reference")
    ],
    out: Annotated[Path, typer.Option("--out", help="folder that is written")],
    data: Annotated[
        Path | None,
        typer.Option("--data", help="data set or run folder (default: that of the first force field)"),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="CONFIG", help="choice of frames: its section `loader`"),
    ] = None,
    overrides: Overrides = None,
    quiet: Quiet = False,
) -> None:
    """Force errors of several force fields on the same validation frames, and whether they differ."""
    from cgrefine.cli.compare import run_comparison
    from cgrefine.cli.console import Console
    from cgrefine.config import load_config
    from cgrefine.config.load import parse
    from cgrefine.errors import InputError

    if config is None and overrides:
        raise InputError("compare: --set changes a value of a configuration; give one with --config")
    chosen = parse({}, "defaults") if config is None else load_config(config, overrides or ())
    run_comparison(paths, data, chosen, out, Console(quiet))


def main() -> None:
    """Entry point: wrong input ends with one sentence and 2, a failed enforced gate with 3, a simulation
    that another program stopped with 1."""
    from cgrefine.errors import GateError, InputError, Interrupted, SimulationStopped

    try:
        app(prog_name="cgrefine")
    except InputError as error:
        sys.stderr.write(f"cgrefine: {error}\n")
        sys.exit(2)
    except SimulationStopped as error:
        sys.stderr.write(f"cgrefine: {error}\n")
        sys.exit(1)
    except GateError as error:
        sys.stderr.write(f"cgrefine: {error}\n")
        sys.exit(3)
    except Interrupted as error:
        sys.stderr.write(f"cgrefine: {error}; the same command goes on from there\n")
        sys.exit(128 + error.number)
