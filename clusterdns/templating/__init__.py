"""What `template` does with a question: the rules it obeys, and what templates take of it."""
