"""Names as SkyDNS keeps them in etcd: services under keys, and the records that they make."""
