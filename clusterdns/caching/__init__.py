"""What `cache` keeps: its options, its rules, and the bounded store."""
