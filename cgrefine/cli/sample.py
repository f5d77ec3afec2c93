"""`cgrefine sample`: write out the embedded sample."""

from pathlib import Path

from cgrefine.data.mdcath import sample_folder
from cgrefine.errors import InputError


def copy_sample(directory: Path) -> list[Path]:
    """Copy the embedded files into a folder (made if absent); returns their paths.

    Files that are there already with the same content are kept. Raises InputError, with nothing written,
    when one has other content, or the folder cannot be made.
    """
    sources = sorted(path for path in sample_folder().iterdir() if path.is_file())
    targets = [directory / source.name for source in sources]
    contents = [source.read_bytes() for source in sources]
    for target, content in zip(targets, contents, strict=True):
        if target.exists() and (not target.is_file() or target.read_bytes() != content):
            raise InputError(
                f"{target}: exists with other content and is not overwritten; choose another folder"
            )
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for target, content in zip(targets, contents, strict=True):
            if not target.exists():
                partial = target.with_name(f".{target.name}.partial")
                partial.write_bytes(content)
                partial.rename(target)
    except OSError as error:
        raise InputError(f"{directory}: cannot be written ({error.strerror})") from error
    return targets
