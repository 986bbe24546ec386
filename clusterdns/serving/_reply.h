/* An upstream server's reply: whether it is ours, and whether it is plain. No Python in here. */
#ifndef CLUSTERDNS_REPLY_H
#define CLUSTERDNS_REPLY_H
#include "_packet.h"

enum { MAX_RECORDS = 64, MAX_LABELS = 256 };

#pragma GCC visibility push(hidden)

/* The content of a plain reply: any aliases, then addresses or a denial with its SOA. */
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

/* Whether octets could be a message with one question or none; others are ignored. */
int has_question(const unsigned char *octets, size_t length);

/* Whether a reply has the question of a query, of so many octets, in any letter case. */
int answers_question(const unsigned char *octets, size_t length, const unsigned char *query,
                     size_t asked);

/* Read a reply to our question; false if it is not plain. `hides_opt`, with `cache` or for a client
 * without OPT: the OPT of the reply is not passed on. */
int read_plain(struct plain *found, const unsigned char *octets, size_t length, int hides_opt);

#pragma GCC visibility pop
#endif
