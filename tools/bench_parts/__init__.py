"""tools/bench: how fast and how small archivefs is, beside what it could be and what others are."""
