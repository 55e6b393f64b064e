"""Episodes with an outcome reward: an environment for trainers, which knows none of them."""
