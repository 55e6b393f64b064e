"""A tiny model, built in code and trained by TRL on the CPU, in real sandboxes."""
