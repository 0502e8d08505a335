"""Person detectors: photograph to mask and whole-body keypoints."""

from persona.modules.detect.blaze import MediapipeDetector
from persona.modules.detect.detection import Detection, Detector
from persona.modules.detect.files import FileDetector

__all__ = ["Detection", "Detector", "FileDetector", "MediapipeDetector"]
