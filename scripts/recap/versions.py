"""Versions of the pipeline's stages.

Snakemake does not look into library code, so an edit there reruns nothing. A
stage's number is part of its rules' ``params``: raise it when the stage's
*results* change on purpose, and exactly that stage and what follows reruns.
"""

STAGE_VERSIONS: dict[str, int] = {
    "world": 1,
    "models": 3,
    "preflight": 1,
    "validate": 2,
    "split": 1,
    "measure": 2,
    "select": 1,
    "map": 1,
    "deduplicate": 1,
    "caption": 2,
    "similarity": 1,
    "policy": 2,
    "dataset": 1,
    "funnel": 1,
    "quality": 2,
    "train": 6,
    "merge": 4,
    "convert": 1,
    "ocr": 1,
    "predict": 3,
    "majority": 2,
    "score": 5,
    "submit": 1,
    "positive_control": 1,
    "compare": 5,
    "report": 7,
    "costs": 2,
}
