"""Sandboxes that outlive the program that made them: names, messages, and the caller's side."""
