"""Weights that must be downloaded: ``python scripts/weights.py list``, ``get NAME dir=DIR``.

``list`` shows the files of each part, their size, their licence and what they are gated by. ``get
NAME dir=DIR licence=accepted`` fetches one part's into DIR, resuming what was broken off;
``HF_HUB_OFFLINE=1`` takes only what the hub's cache holds.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from persona.errors import UserError
from persona.modules.diffusion.weights import WEIGHTS, Weights, size_text

USAGE = "weights.py list | weights.py get NAME dir=DIR licence=accepted"


def main(words: Sequence[str]) -> None:
    """Runs one command."""
    command, *rest = words or ["--help"]
    if command in ("-h", "--help"):
        print(f"usage: {USAGE}")
    elif command == "list" and not rest:
        print(table(list(WEIGHTS.values())))
    elif command == "get" and rest:
        fetch(*parsed(rest))
    else:
        raise UserError(f"weights.py {' '.join(words)}: no such command; {USAGE}")


def table(parts: Sequence[Weights]) -> str:
    """Each part with its files beneath."""
    lines = []
    for part in parts:
        use = "commercial use allowed" if part.commercial else "no commercial use"
        lines += [f"{part.name}: {size_text(part.megabytes)}, {use}"]
        lines += [f"  licence  {part.licence}", f"  gated    {part.gate or 'no'}"]
        width = max(len(file.path) for file in part.files)
        for file in part.files:
            size = size_text(file.megabytes)
            where = f"{file.repository}@{file.revision[:7]}"
            lines.append(f"  {file.path:{width}}  {size:>11}  {where}")
    return "\n".join(lines)


def parsed(words: Sequence[str]) -> tuple[Weights, Path]:
    """What to fetch, and where to, of a user who accepted the licence."""
    name, *options = words
    given = dict(option.partition("=")[::2] for option in options)
    if name not in WEIGHTS:
        raise UserError(f"weights.py get {name}: no such part; give one of {', '.join(WEIGHTS)}")
    if unknown := set(given) - {"dir", "licence"}:
        raise UserError(f"{', '.join(sorted(unknown))}=: no such option; {USAGE}")
    part = WEIGHTS[name]
    if not given.get("dir"):
        raise UserError(f"dir= is not given: {USAGE}")
    if given.get("licence") != "accepted":
        raise UserError(f"{part.licence}. If you accept that, add licence=accepted")
    return part, Path(given["dir"])


def fetch(part: Weights, folder: Path) -> None:
    """Downloads missing files; files of several repositories go into one folder."""
    try:
        from huggingface_hub import hf_hub_download, snapshot_download
        from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError
    except ImportError as error:
        raise UserError(f"fetching needs {error.name}: `pip install persona[diffusion]`") from error
    missing = [file for file in part.files if not (folder / file.path).is_file()]
    for file in missing[:1] if part.whole else missing:
        where = file.repository
        print(f"fetching {where if part.whole else f'{file} from {where}'}")
        try:
            if part.whole:
                snapshot_download(where, revision=file.revision, local_dir=folder)
                continue
            got = hf_hub_download(
                where, file.published or file.path, revision=file.revision, local_dir=folder
            )
        except GatedRepoError as error:
            raise UserError(f"{where} is gated: {part.gate}") from error
        except (LocalEntryNotFoundError, OSError) as error:
            raise UserError(f"{where} cannot be reached: {str(error).splitlines()[0]}") from error
        target = folder / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        Path(got).replace(target)
    print(f"{part.name}: all files are in {folder}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(f"error: {error}")
