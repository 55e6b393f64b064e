"""Measures sandboxes beside plain bwrap, a reference of forty lines, and what else is here."""
