"""One device and its guest: how it is taken, started, driven, kept and stopped."""
