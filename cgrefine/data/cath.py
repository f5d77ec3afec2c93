"""CATH codes of domains, from a list file that the user gives.

Read: CATH's domain list (cath-domain-list.txt, CLF 2.0: name and the numbers C A T H in columns 1 to 5),
and plain lines `domain C.A.T.H`, as in lists of mdCATH ids. Lines that begin with # are comments.
"""

from pathlib import Path

from cgrefine.errors import InputError

Code = tuple[int, int, int, int]

LEVELS = {"topology": 3, "superfamily": 4}
"""Numbers of the code that name a class: C.A.T is the topology (fold), C.A.T.H the superfamily."""


def read_codes(path: Path) -> dict[str, Code]:
    """Domain name → (C, A, T, H). Raises InputError on a missing file or a line that is neither form."""
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"data.split.cath_list: {path} cannot be read ({error})") from error
    codes: dict[str, Code] = {}
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        code = words[1].split(".") if len(words) == 2 else words[1:5]
        if len(code) != 4 or not all(part.isdigit() for part in code):
            raise InputError(
                f"{path}: line {number}: {line.strip()[:60]!r} is neither `domain C.A.T.H` nor a line of "
                "CATH's domain list (domain C A T H ...)"
            )
        c, a, t, h = (int(part) for part in code)
        codes[words[0]] = (c, a, t, h)
    if not codes:
        raise InputError(f"{path}: holds no domain")
    return codes


def class_of(name: str, codes: dict[str, Code], level: str) -> str:
    """The class of a domain, such as 3.40.50 for a topology. Raises InputError when it is not in the list."""
    if name not in codes:
        raise InputError(
            f"data.split.cath_list: domain {name} is not among the {len(codes)} domains of the list; add it, "
            "or split by domain"
        )
    return ".".join(str(part) for part in codes[name][: LEVELS[level]])
