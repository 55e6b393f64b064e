"""TRL's trainers on our episodes: an environment class, and a reward function that runs them.

Needs the extra `trl` where a module says so; importing this package needs nothing.
"""
