"""The messages of `dnstap`, and the connections to their readers."""
