"""archivefs: what a test station dropped is never lost, and can be found, proven and done again."""

__version__ = "0.1.0"
