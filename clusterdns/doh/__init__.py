"""DNS messages in HTTP (RFC 8484): requests and replies in HTTP/1.1 and HTTP/2."""
