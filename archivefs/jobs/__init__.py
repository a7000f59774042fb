"""Long work in the background of a mount."""
