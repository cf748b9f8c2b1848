"""Registers ``recap_captioning_mapper`` where Data-Juicer loads this file.

In a recipe: ``custom_operator_paths: [scripts/recap_captioning_mapper.py]``, and
``PYTHONPATH=scripts dj-process --config recipe.yaml``.
"""

from recap.caption.operator import RecapCaptioningMapper

__all__ = ["RecapCaptioningMapper"]
