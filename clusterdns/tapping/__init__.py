"""What `dnstap` tells of queries: its messages, and the connections to who reads them."""
