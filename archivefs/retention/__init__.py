"""What is purged, what must not be, and how its bytes go."""
