"""The command line: thin callers of the library, one module for each group of commands."""
