"""Bytes on disk: frames, records in segments, the journal, and what is done about torn ends."""
