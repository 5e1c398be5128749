"""What can go wrong in the media layer."""


class MediaError(Exception):
    """Root of this layer's errors."""


class AudioFormatError(MediaError):
    """Audio in a form that we do not decode."""


class SpeechError(MediaError):
    """A speech provider failed, or took too long."""
