"""Proof that an archive is what it says: every check, what each finding means, and what can be mended."""
