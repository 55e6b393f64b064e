"""A directory of the user's that a sandbox changes without touching it, and what comes of that."""
