"""Ways to get a root file system, and the store that keeps them."""
