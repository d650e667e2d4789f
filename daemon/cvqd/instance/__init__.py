"""One running instance, as its operators and its service manager have it."""
