"""From a video of a person to the motion of a whole body."""
