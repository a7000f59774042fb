"""The mount: what the tree shows, what the inbox takes, and the adapter that speaks FUSE."""
