"""The way out of a sandbox, and the way in: a proxy that looks at names, and published ports."""

PORT = 3128
"""Of the proxy, on the jail's own loopback."""
