"""Looking at an archive and its machine from outside: what is wrong, and the command that mends it."""
