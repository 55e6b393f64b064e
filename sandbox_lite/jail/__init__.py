"""A closed computer in milliseconds: bwrap, overlay, shell, files. Knows nothing of models."""
