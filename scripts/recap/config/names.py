"""Names of rows, recipes and worlds that become folders, parts of file names and wildcards."""

import re
from typing import Annotated

from pydantic import AfterValidator

# No dot: it parts the names in `<arm>.seed<n>` and `<corpus>.<recipe>.<captioner>.<shard>`.
LABEL = r"[A-Za-z0-9][A-Za-z0-9_-]*"
# Models and downloads are looked up, never cut out of a file name.
DOTTED = r"[A-Za-z0-9][A-Za-z0-9._-]*"


def require_name(name: str, pattern: str = LABEL) -> str:
    """Return a name that is fit for paths.

    Raises:
        ValueError: if it is not, saying what to write.
    """
    if re.fullmatch(pattern, name):
        return name
    dots = ", `.`" if pattern == DOTTED else ""
    raise ValueError(
        f"`{name}` becomes a part of file names: use the letters a to z in either case, digits, "
        f"`_`{dots} and `-` alone, with a letter or digit first"
    )


Label = Annotated[str, AfterValidator(require_name)]
