"""Importing large libraries at less cost: most jobs of a small experiment are little else."""

import gc
import sys
from importlib import import_module

TRANSFORMERS = ("torch", "transformers.modeling_utils")


def load_libraries(*names: str) -> None:
    """Import modules with the garbage collector at rest.

    Importing torch and transformers makes 400,000 objects that stay; looking for garbage
    among them, again and again while there are more, is a sixth of the time. Afterwards they
    are left out of every later search too.

    Args:
        names: modules; what is there already is not imported again.
    """
    if all(name in sys.modules for name in names):
        return
    enabled = gc.isenabled()
    gc.disable()
    try:
        for name in names:
            import_module(name)
    finally:
        gc.freeze()
        if enabled:
            gc.enable()
