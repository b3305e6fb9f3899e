"""Maps out of spectral imagery: prepare, train, eval, predict."""
