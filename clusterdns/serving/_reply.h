/* An upstream server's reply: whether it is ours, and whether it is plain. No Python in here. */
#ifndef CLUSTERDNS_REPLY_H
#define CLUSTERDNS_REPLY_H
#include "_packet.h"

enum { MAX_RECORDS = 64, MAX_LABELS = 256 };

#pragma GCC visibility push(hidden)

/* What a plain reply holds: addresses or a denial with its SOA, behind any aliases. */
struct plain {
    const unsigned char *octets; /* of the message */
    size_t end;          /* of its records, but for an OPT */
    size_t uncompressed; /* octets */
    unsigned ttl;        /* the smallest */
    int records, addresses, labels, is_denial;
    int is_error; /* a name error behind aliases, which `cache` does not keep: rules.outcome */
    size_t heads[MAX_RECORDS];                      /* where owners end */
    struct { unsigned short at, rest; } label[MAX_LABELS]; /* and octets up to the name's end */
};

/* Whether octets could be a message about a question or none; others are as if none had come. */
int has_question(const unsigned char *octets, size_t length);

/* Whether a reply is to a query's question of so many octets, whatever the case of its letters. */
int answers_question(const unsigned char *octets, size_t length, const unsigned char *query,
                     size_t asked);

/* Read a reply to our question; false if it is not plain. Where the cache is in front of the
 * upstream server, or the client sent no OPT, `hides_opt`: what its OPT says does not reach the client. */
int read_plain(struct plain *found, const unsigned char *octets, size_t length, int hides_opt);

#pragma GCC visibility pop
#endif
