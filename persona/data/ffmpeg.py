"""ffmpeg, an optional package, since its wheel is over 30 MB and few machines write videos."""

from types import ModuleType

from persona.errors import UserError


def ffmpeg_package(
    otherwise: str = "train without them by pictures.turntable_frames=0",
) -> ModuleType:
    """imageio-ffmpeg.

    Args:
        otherwise: What to do where it cannot be installed.

    Raises:
        UserError: It is not installed.
    """
    try:
        import imageio_ffmpeg
    except ImportError as error:
        raise UserError(
            "videos need imageio-ffmpeg, which is not installed: pip install imageio-ffmpeg, or "
            f"{otherwise}"
        ) from error
    return imageio_ffmpeg


def ffmpeg_program() -> str:
    """Path of ffmpeg.

    Raises:
        UserError: Its package is not installed.
    """
    return ffmpeg_package().get_ffmpeg_exe()
