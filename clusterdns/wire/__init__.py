"""DNS messages: names, records, queries, replies, zones. No sockets, no clock."""
