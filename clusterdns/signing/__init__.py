"""Keys and signatures of DNSSEC."""
