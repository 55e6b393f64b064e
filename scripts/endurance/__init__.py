"""Uses and abuses sandboxes for minutes, and looks whether anything is left of it."""
