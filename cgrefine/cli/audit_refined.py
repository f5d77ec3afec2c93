"""`cgrefine audit_refined`: the audit of the refined model of a run, from replicas of its own."""

from pathlib import Path

from cgrefine.artifacts import Stage
from cgrefine.cli.audit_model import write_audit
from cgrefine.cli.console import Console
from cgrefine.cli.stages import refuse_exchange
from cgrefine.config.schema import Config
from cgrefine.data.store import open_dataset


def build(stage: Stage, config: Config, root: Path, console: Console) -> None:
    """Read prepare/ and refine/; write what `audit --model` writes, with the replicas in this process."""
    assert config.sim is not None
    refuse_exchange(config, "audit_refined")
    here = config.model_copy(update={"sim": config.sim.model_copy(update={"on_cluster": False})})
    write_audit(stage, [str(root / "refine")], open_dataset(root / "prepare"), here, console)
