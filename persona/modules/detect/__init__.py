"""Person detectors and annotators: photograph to mask, whole-body keypoints and maps."""

from persona.modules.detect.annotator import Annotator, annotate
from persona.modules.detect.blaze import MediapipeDetector
from persona.modules.detect.detection import Detection, Detector, NobodyFound
from persona.modules.detect.files import FileDetector

__all__ = [
    "Annotator", "Detection", "Detector", "FileDetector", "MediapipeDetector", "NobodyFound",
    "annotate",
]  # fmt: skip
