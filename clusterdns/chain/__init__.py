"""What a plugin is, and how plugins make up a server block."""
