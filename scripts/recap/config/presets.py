"""Named settings of stage 2, laid over those of the configuration."""

from pydantic import ValidationError

from ..errors import RecapError
from ..settings import explain
from ..train_settings import FinetuneSettings
from .rows import FinetunePresetRow
from .schema import ExperimentConfig

_LORA = ("rank", "alpha", "use_rslora", "use_dora")


def with_preset(
    config: ExperimentConfig, presets: dict[str, FinetunePresetRow]
) -> ExperimentConfig:
    """Return the configuration with the cells of its preset in ``train.finetune``.

    Raises:
        RecapError: if there is no such preset, or it contradicts other settings.
    """
    name = config.finetune_preset
    if not name:
        return config
    sheet = config.sheets.finetune_presets
    if name not in presets:
        raise RecapError(
            f"configuration: `finetune_preset`: `{name}` is not a row of {sheet}; known: "
            f"{', '.join(presets)}"
        )
    cells = presets[name].model_dump(exclude_none=True, exclude={"description"})
    values = config.train.finetune.model_dump()
    values["lora"] |= {key: cells.pop(key) for key in _LORA if key in cells}
    try:
        finetune = FinetuneSettings.model_validate(values | cells)
    except ValidationError as error:
        raise RecapError(f"{sheet}: {name}: {explain(error)}") from error
    train = config.train.model_copy(update={"finetune": finetune})
    return config.model_copy(update={"train": train})
