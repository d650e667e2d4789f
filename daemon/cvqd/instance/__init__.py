"""One running instance, as its operators and its service manager deal with it."""
