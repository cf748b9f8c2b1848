"""Installing the cluster profiles where Snakemake looks for them by name."""

import os
import re
from pathlib import Path

from ..errors import RecapError
from ..io import write_text

PROFILES = ("slurm", "slurm-gres")
_MARK = "# Written by `make install-profile` of mgm-recap."
# A plain link would not do: Snakemake takes `..` out of paths before it follows links, so a profile
# can't name the Snakefile beside it. This one is read anew on each start, like a link.
_STUB = """\
{mark} It reads
# {profile}
# on each start, so that edits there count at once.
__use_yte__: true
__definitions__:
  - import yaml
  - from pathlib import Path
  - folder = Path({folder!r})
  - "shipped = yaml.safe_load((folder / 'config.yaml').read_text(encoding='utf-8'))"
  - "is_file = lambda value: isinstance(value, str) and (folder / value).is_file()"

snakefile: {snakefile}
directory: {root}
?for key, value in shipped.items():
  ?key: ?str(folder / value) if is_file(value) else value
"""


def user_folder() -> Path:
    """Return the folder in which Snakemake looks for a user's profiles."""
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "snakemake"


def uses_cluster(profile: str) -> bool:
    """Tell whether a profile, named as for Snakemake, hands jobs to other machines than this."""
    for folder in (Path(profile), user_folder() / profile):
        path = folder / "config.yaml"
        if path.is_file():
            text = path.read_text(encoding="utf-8")
            executor = re.search(r"^executor: *[\"']?(\w+)", text, re.MULTILINE)
            return _MARK in text or (executor is not None and executor[1] != "local")
    return False


def install_profiles(root: Path, into: Path) -> list[Path]:
    """Write a profile of each name that leads to this copy of the pipeline.

    Args:
        root: folder of the Snakefile; runs started by the profile run there.
        into: folder of the user's profiles.

    Returns:
        The files written.

    Raises:
        RecapError: if a profile of that name is there already and is not ours.
    """
    targets = {name: into / name / "config.yaml" for name in PROFILES}
    for name, target in targets.items():
        if _is_foreign(target):
            raise RecapError(
                f"{target} is a profile of yours; move it away, or start this pipeline with "
                f"--profile {root / 'profiles' / name}"
            )
    for name, target in targets.items():
        folder = root / "profiles" / name
        text = _STUB.format(
            mark=_MARK,
            profile=folder / "config.yaml",
            folder=str(folder),
            snakefile=root / "Snakefile",
            root=root,
        )
        write_text(target, text)
    return list(targets.values())


def _is_foreign(target: Path) -> bool:
    if not target.parent.exists():
        return False
    others = [path.name for path in target.parent.iterdir() if path != target]
    return bool(others) or (target.exists() and _MARK not in target.read_text(encoding="utf-8"))
