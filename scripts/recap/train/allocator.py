"""How CUDA's memory is handed out; set before torch is imported, which reads it then."""

import os


def use_growing_segments() -> None:
    """Let CUDA's allocator grow its segments.

    Passes of many lengths otherwise leave holes between fixed ones, and near the limit each
    new length waits for memory to be given back and asked for again.
    """
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
