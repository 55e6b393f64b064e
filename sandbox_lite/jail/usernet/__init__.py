"""Raw packets for a jail, carried by a program in the host's own network: pasta or slirp4netns.

Neither needs a privilege. Each gets an interface in the jail's network namespace, and does by
sockets of its own what the packets there ask for. `carriers` knows their words, `carrying` starts
one, has the interface set up (`jail/tap.py`) and ends it again.
"""
