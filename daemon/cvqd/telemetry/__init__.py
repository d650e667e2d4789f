"""What is told of an instance: commands, moves, status, metrics."""
