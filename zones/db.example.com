; A zone outside the cluster, so that the lab needs no network.
$ORIGIN example.com.
$TTL 3600
@           IN SOA  ns1 hostmaster 2026112101 7200 1800 86400 300
            IN NS   ns1
            IN NS   ns2.example.org.
            IN MX   10 mail
            IN TXT  "v=spf1 mx -all"
            IN A    192.0.2.80
ns1         IN A    192.0.2.53
mail        IN A    192.0.2.25
            IN AAAA 2001:db8::25
www         IN A    192.0.2.80
            IN AAAA 2001:db8::80
web         IN CNAME www
docs        IN CNAME pages.example.org.
chain       IN CNAME web
*.dev       IN A    192.0.2.90
_sip._tcp   IN SRV  10 60 5060 sip
sip         IN A    192.0.2.60
; a delegation, with its glue
team        IN NS   ns.team
ns.team     IN A    192.0.2.54
