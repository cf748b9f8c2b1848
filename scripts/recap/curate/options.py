"""Settings models from the command line, with errors a user can act on."""

from typing import TypeVar

from pydantic import ValidationError

from ..cli import load_settings
from ..errors import RecapError
from ..settings import Settings

SettingsModel = TypeVar("SettingsModel", bound=Settings)


def parse_settings(model: type[SettingsModel], text: str) -> SettingsModel:
    """Build a settings model from inline JSON or a path.

    Raises:
        RecapError: naming every offending key, if the settings do not fit.
    """
    try:
        return model.model_validate(load_settings(text))
    except ValidationError as error:
        found = "; ".join(
            f"{'.'.join(str(part) for part in item['loc']) or 'settings'}: {item['msg']}"
            for item in error.errors()
        )
        raise RecapError(f"invalid {model.__name__}: {found}") from error
