/* An upstream server's reply, read and written again. No Python in here.
 *
 * reading.read_reply, outcome.py, caching/rules.py and response.render_reply are the specification:
 * what this takes gives the same octets, and everything unusual is left to them. Names in a reply are
 * written out in full when it is read, and compressed again when it is written. */
#ifndef CLUSTERDNS_REPLY_H
#define CLUSTERDNS_REPLY_H
#include "_packet.h"

/* ROOM: a longest reply, and the record that makes it too long. */
enum { MAX_RECORDS = 128, MAX_ALIASES = 16, MAX_REPLY = 4096, SECTIONS = 3, ROOM = MAX_OCTETS + 8192 };
enum outcome { O_SUCCESS, O_DELEGATION, O_NODATA, O_NXDOMAIN, O_FAILURE, O_OTHER };

#pragma GCC visibility push(hidden)

struct name {
    const unsigned char *octets; /* in full, in the message or beside it */
    size_t length;
};

struct record {
    struct name owner, rdata; /* names in RDATA in full */
    unsigned type;
    size_t head; /* where type, class and TTL stand in the message */
};

/* The content of a reply, until the next one is read. */
struct reply {
    const unsigned char *octets, *question;
    size_t asked; /* octets of the question */
    size_t end;   /* of the records, but for an OPT */
    size_t uncompressed; /* octets */
    int counts[SECTIONS], records;
    unsigned rcode, ttl; /* the smallest TTL; 5 without records */
    unsigned minimum;    /* the smallest MINIMUM of SOA records among the authorities */
    int has_soa, has_servers; /* among the authorities */
    unsigned pointer;         /* the last owner that was one, and where it leads */
    struct name pointed;
    struct record record[MAX_RECORDS];
};

/* Whether octets could be a message with one question or none; others are ignored. */
int has_question(const unsigned char *octets, size_t length);

/* Whether a reply has the question of a query, of so many octets, in any letter case. */
int answers_question(const unsigned char *octets, size_t length, const unsigned char *query,
                     size_t asked);

/* Read a reply to our question; false if it is left to Python. `hides_opt`: the OPT of the reply is
 * not passed on, else it must say nothing to a client with these flags in its OPT. `is_minimal`: a
 * positive answer loses its other sections, see `minimal`. */
int read_reply(struct reply *found, const unsigned char *octets, size_t length, size_t asked,
               int hides_opt, unsigned flags, int is_minimal);

/* The outcome of a reply to the question, as `cache` has it: rules.outcome; and whether it has all
 * records of its kind: rules._is_complete. */
enum outcome outcome_of(const struct reply *found, int *is_complete);

/* Whether an owner or RDATA has the octets of a zone, in any letter case: true for each name in it. */
int may_name(const struct reply *found, const unsigned char *zone, size_t length);

/* Write the records of a reply, in an order, behind a header and a question of `asked` octets. Returns
 * the end, 0 if that is left to Python; sets the counts, and whether records beyond `limit` were left
 * out. All records get a TTL, or keep their own. */
size_t write_records(unsigned char *to, const struct reply *found, const short *order,
                     const unsigned *ttl, size_t limit, int counts[SECTIONS], int *is_cut);

#pragma GCC visibility pop
#endif
