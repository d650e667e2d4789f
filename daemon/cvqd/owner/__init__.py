"""One device and its guest: opening, starting, driving and stopping it, and keeping its state."""
