"""Networks that see a person's picture, which the user names by their folders."""

# Says what to install where diffusers or transformers are missing.
import persona.modules.diffusion.networks  # noqa: F401
