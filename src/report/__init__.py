"""Reports: one self-contained HTML page per run, with pictures, for people who were not there."""
