"""Pure codecs between bytes and frozen values; no I/O, no state, no policy."""
