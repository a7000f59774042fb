"""Many files at once: folders are walked, files read by several threads, and committed in large groups."""
