"""Files of a workdir: layout, formats, and remote copies."""
