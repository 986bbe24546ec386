"""From the text of a configuration to what can be served."""
