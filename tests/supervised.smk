"""What the tests' small workflows share with the real one: supervision, and requests that grow."""

from functools import partial
from pathlib import Path

from scripts.recap.cluster.records import grown
from scripts.recap.cluster.supervision import Supervision

FAILURES = Path("failures.json")
SUPERVISION = Supervision(workflow, FAILURES)


onstart:
    SUPERVISION.start()


onsuccess:
    SUPERVISION.finish()


onerror:
    SUPERVISION.finish()


def growing(what, first):
    """Return a request that grows as the real workflow's do."""
    grow = partial(grown, FAILURES, what, first)
    return lambda wildcards, attempt, rulename: grow(wildcards, attempt, rulename)
