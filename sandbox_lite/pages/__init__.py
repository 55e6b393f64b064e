"""Pages that open offline: runs as people read them, and plots. What a model made does nothing."""
