"""Checks of arms that lean on another arm: A/A twins and random draws of its size."""

from typing import TYPE_CHECKING, NoReturn

from ..errors import RecapError

if TYPE_CHECKING:
    from .experiment import Experiment

_OWN = ("identical_to", "seed_offset", "description")


def fail(key: str, problem: str) -> NoReturn:
    """Raise the error of a key of the configuration, or of a row of a sheet."""
    raise RecapError(f"configuration: `{key}`: {problem}")


def check_twin(experiment: "Experiment", name: str) -> None:
    """Refuse an A/A twin with a recipe of its own, no other arm, or a shared seed.

    Raises:
        RecapError: naming the row and what to change.
    """
    row, config = experiment.rows[name], experiment.config
    sheet = f"{config.sheets.arms}: {name}"
    if not row.identical_to:
        if row.seed_offset:
            fail(sheet, "`seed_offset` belongs to an arm with `identical_to`; clear it")
        return
    other = experiment.rows.get(row.identical_to)
    if other is None or row.identical_to not in config.arms or name not in config.arms:
        fail(sheet, f"needs `{row.identical_to}` and itself among `arms`, since both are trained")
    if other.identical_to:
        fail(sheet, f"`{row.identical_to}` repeats an arm itself; name `{other.identical_to}`")
    if name == config.reference_arm:
        fail("reference_arm", f"`{name}` repeats `{row.identical_to}`; make that the reference")
    values = row.model_dump(exclude=set(_OWN), exclude_defaults=True)
    if values:
        fail(sheet, f"takes everything from `{row.identical_to}`: clear {', '.join(values)}")
    _check_seeds(experiment, name)


def _check_seeds(experiment: "Experiment", name: str) -> None:
    """Refuse two runs of the same data with the same seed: they would be copies."""
    row, config = experiment.rows[name], experiment.config
    seeds = set(config.seeds)
    mine = {seed + row.seed_offset for seed in seeds}
    for other, twin in experiment.rows.items():
        if other == name or row.identical_to not in (other, twin.identical_to):
            continue
        if shared := sorted(mine & {seed + twin.seed_offset for seed in seeds}):
            fail(
                f"{config.sheets.arms}: {name}",
                f"would be trained with seeds {shared} on the same data as `{other}`, so the runs "
                "were copies and measured no noise; choose another `seed_offset`",
            )


def check_draw(experiment: "Experiment", name: str) -> None:
    """Refuse a random draw whose size is that of an arm it can't be compared with.

    Raises:
        RecapError: naming the row and what to change.
    """
    arm, config = experiment.arms[name], experiment.config
    sheet = f"{config.sheets.arms}: {name}"
    if not arm.max_records_of or experiment.rows[name].identical_to:
        return
    other = experiment.arms.get(arm.max_records_of)
    if other is None:
        fail(sheet, f"`max_records_of` names `{arm.max_records_of}`, which this experiment lacks")
    if arm.max_records:
        fail(sheet, "`max_records` and `max_records_of` are two budgets; clear one")
    if other.max_records_of:
        fail(sheet, f"`{arm.max_records_of}` has a borrowed budget too; name its own source")
    if other.match_ids_to:
        fail(
            sheet,
            f"`{arm.max_records_of}` takes its ids from `{other.match_ids_to}`; name that one",
        )
    if (other.corpus, other.caption_policy) != (arm.corpus, arm.caption_policy):
        fail(
            sheet,
            f"differs from `{arm.max_records_of}` in corpus or caption_policy, not in the choice "
            "of records alone; make them equal",
        )
