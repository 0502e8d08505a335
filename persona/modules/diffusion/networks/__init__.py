"""Networks of the video generators, made of diffusers' blocks; needs the `diffusion` extra."""

from persona.errors import UserError

try:
    import diffusers  # noqa: F401
    import transformers  # noqa: F401
except ImportError as error:
    raise UserError(
        f"video generators need {error.name}: `pip install persona[diffusion]`"
    ) from error
