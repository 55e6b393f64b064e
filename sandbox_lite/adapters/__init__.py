"""What other programs expect of a sandbox, one file or folder each; imported by who wants it."""
