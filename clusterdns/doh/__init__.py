"""DNS messages in HTTP (RFC 8484): what requests and replies say, in HTTP/1.1 and HTTP/2."""
