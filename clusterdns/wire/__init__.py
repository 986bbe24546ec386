"""DNS messages: names, records, queries, replies. No sockets, no clock."""
