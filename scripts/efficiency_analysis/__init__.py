"""What sandboxes take while recorded runs are replayed in them, as in the paper's last section."""
