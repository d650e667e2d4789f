"""A vhost-user session: what a front-end may say, and what follows from it."""
