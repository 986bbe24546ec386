/* Shared by _drain.c, _relay.c and _reply.c: parsing of messages, and objects for Python. */
#ifndef CLUSTERDNS_PACKET_H
#define CLUSTERDNS_PACKET_H
#define PY_SSIZE_T_CLEAN
#define _GNU_SOURCE
#include <Python.h>
#include <netinet/in.h>
#include <sys/socket.h>

#pragma GCC visibility push(hidden)

enum {
    HEADER = 12, OPT = 11, LEAST_LIMIT = 512, MAX_NAME = 255, MAX_LABEL = 63, MAX_OCTETS = 65535, MAX_UDP = 65507,
    A = 1, NS = 2, CNAME = 5, SOA = 6, PTR = 12, MX = 15, AAAA = 28, TYPE_OPT = 41, FORMERR = 1, SERVFAIL = 2, NXDOMAIN = 3, NOTIMP = 4, REFUSED = 5,
    QR = 0x80, TC = 0x02, AD = 0x20, CD = 0x10, /* in their octets of the header */
    DO = 0x80,                                   /* in its octet of an OPT */
    FORM_RD = 1, FORM_AD = 2, FORM_OPT = 4, FORM_CD = 8, FORMS = 16
};

static inline unsigned short number16(const unsigned char *from)
{
    return (unsigned short)(from[0] << 8 | from[1]);
}

static inline void write16(unsigned char *to, unsigned number)
{
    to[0] = (unsigned char)(number >> 8);
    to[1] = (unsigned char)number;
}

/* RD + 2 AD + 4 OPT + 8 CD of a plain query, -1 for any other: _PLAIN in table.py. */
int form_of(const unsigned char *packet, size_t length);

/* Write octets with their letters in lower case; whether any was a capital. */
int fold(unsigned char *to, const unsigned char *from, size_t length);

/* The value of a dict for some octets, borrowed; NULL if there is none. */
PyObject *look_up(PyObject *dict, const unsigned char *key, size_t length);

/* The client of a query, and the control message that sets the source of the reply to the address of
 * the query: IP_PKTINFO on a socket of all addresses, none on a socket of one address. */
struct client {
    struct sockaddr_storage address;
    size_t source_octets;
    union {
        struct cmsghdr head;
        unsigned char octets[CMSG_SPACE(sizeof(struct in6_pktinfo))];
    } source;
};

/* The address of a client, that of IPv4 also where it is mapped into IPv6; returns its octets, 16 at
 * most. */
int octets_of_address(const struct sockaddr_storage *client, unsigned char *octets);

/* The client in the form of Python's sockets. */
PyObject *client_of(const struct client *client);

/* Turn the destination of a query into the source of its reply. */
void turn_around(struct client *client, size_t octets);

/* Send a client a reply; it is lost if that fails. */
void send_to(int fd, struct client *client, unsigned char *octets, size_t length);

/* The bucket of a duration: histogram.TIME_S. */
unsigned char time_bucket(double seconds);

#pragma GCC visibility pop
#endif
