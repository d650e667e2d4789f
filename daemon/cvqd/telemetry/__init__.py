"""What an instance reports about itself: commands, moves, status, metrics."""
