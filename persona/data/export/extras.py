"""Libraries that only exporting needs."""

from importlib import import_module
from types import ModuleType

from persona.errors import UserError


def extra(module: str, extra: str = "export") -> ModuleType:
    """The module, imported now.

    Raises:
        UserError: it is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise UserError(
            f"needs {module.split('.')[0]}: pip install -c constraints.txt 'persona[{extra}]'"
        ) from error
