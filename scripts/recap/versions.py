"""Versions of the pipeline's stages.

Snakemake does not look into library code, so an edit there reruns nothing. A
stage's number is part of its rules' ``params``: raise it when the stage's
*results* change on purpose, and exactly that stage and what follows reruns.
"""

STAGE_VERSIONS: dict[str, int] = {
    "world": 1,
    "models": 1,
    "validate": 1,
    "split": 1,
    "measure": 1,
    "select": 1,
    "caption": 2,
    "similarity": 1,
    "policy": 1,
    "dataset": 1,
    "train": 4,
    "merge": 4,
    "convert": 1,
    "predict": 1,
    "score": 2,
    "compare": 2,
    "report": 3,
}
