"""A model that works in a sandbox: tools, model client, loop, trajectory, replay."""
