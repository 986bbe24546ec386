#include "_reply.h"

enum { MAX_REPLY = 4096 };

static int is_alike(const unsigned char *one, const unsigned char *other, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        unsigned char differing = one[i] ^ other[i], letter = one[i] | 0x20;
        if (differing && (differing != 0x20 || letter < 'a' || letter > 'z'))
            return 0;
    }
    return 1;
}

/* The octets of the name whose label starts at `at`, 0 if none is known to. */
static unsigned rest_at(const struct plain *found, unsigned at)
{
    for (int i = 0; i < found->labels; i++)
        if (found->label[i].at == at)
            return found->label[i].rest;
    return 0;
}

/* The end of the name at `at`, 0 if it is invalid; a pointer leads to a label before it. */
static size_t name_end(struct plain *found, size_t at, size_t last, size_t *octets)
{
    int first = found->labels;
    unsigned rest = 0;
    while (!rest) {
        if (at >= last || found->octets[at] > MAX_LABEL) {
            if (at + 2 > last || found->octets[at] < 0xC0)
                return 0;
            rest = rest_at(found, number16(found->octets + at) & 0x3FFF);
            if (!rest)
                return 0;
            at += 2;
        } else if (!found->octets[at]) {
            rest = 1;
            at++;
        } else {
            if (found->labels == MAX_LABELS)
                return 0;
            found->label[found->labels].rest = 0;
            found->label[found->labels++].at = (unsigned short)at;
            at += 1u + found->octets[at];
        }
    }
    for (int i = found->labels; i-- > first;) {
        rest += 1u + found->octets[found->label[i].at];
        found->label[i].rest = (unsigned short)rest;
    }
    *octets = rest;
    return rest <= MAX_NAME ? at : 0;
}

int has_question(const unsigned char *octets, size_t length)
{
    struct plain found = {.octets = octets};
    if (!number16(octets + 4))
        return 1;
    size_t size, end = number16(octets + 4) == 1 ? name_end(&found, HEADER, length, &size) : 0;
    return end && end + 4 <= length;
}

int answers_question(const unsigned char *octets, size_t length, const unsigned char *query,
                     size_t asked)
{
    return length >= HEADER + asked && (octets[2] & 0xF8) == 0x80 && number16(octets + 4) == 1 &&
           is_alike(octets + HEADER, query + HEADER, asked);
}

/* Lower the time a reply may be kept to some seconds. */
static void bound(struct plain *found, const unsigned char *number)
{
    unsigned ttl = (unsigned)number16(number) << 16 | number16(number + 2);
    if (ttl < found->ttl)
        found->ttl = ttl;
}

/* Read the record behind an owner; returns the end of its RDATA, 0 if it is truncated. */
static size_t head_end(struct plain *found, size_t at, size_t last)
{
    const unsigned char *head = found->octets + at;
    if (at + 10 > last || found->records == MAX_RECORDS || number16(head + 2) != 1)
        return 0;
    bound(found, head + 4);
    found->heads[found->records++] = at;
    size_t end = at + 10 + number16(head + 8);
    return end <= last ? end : 0;
}

/* Any aliases, each the owner of what follows, then any addresses: where they end, or 0. */
static size_t answers_end(struct plain *found, size_t at, size_t last, int count, size_t octets)
{
    unsigned wanted = number16(found->octets + at - 4), size = wanted == A ? 4 : 16;
    size_t owner = HEADER;
    while (count--) {
        size_t head = at + 2, rdata = head + 10, end = head_end(found, head, last);
        if (!end || number16(found->octets + at) != (0xC000 | owner))
            return 0;
        found->uncompressed += octets + 10;
        if (number16(found->octets + head) == wanted && end - rdata == size) {
            found->addresses++;
            found->uncompressed += size;
        } else if (number16(found->octets + head) == CNAME && !found->addresses) {
            if (name_end(found, rdata, end, &octets) != end)
                return 0;
            owner = rdata;
            found->uncompressed += octets;
        } else {
            return 0;
        }
        at = end;
    }
    return at;
}

/* One SOA record: where it ends, or 0. */
static size_t denial_end(struct plain *found, size_t at, size_t last)
{
    size_t owner = 0, server = 0, mailbox = 0, end = 0, at_head = name_end(found, at, last, &owner);
    if (at_head)
        end = head_end(found, at_head, last);
    if (!end || number16(found->octets + at_head) != SOA)
        return 0;
    size_t numbers = name_end(found, at_head + 10, end, &server);
    if (numbers)
        numbers = name_end(found, numbers, end, &mailbox);
    if (!numbers || numbers + 20 != end)
        return 0;
    bound(found, found->octets + end - 4); /* MINIMUM: rules.ttl_of */
    found->uncompressed += owner + 10 + server + mailbox + 20;
    return end;
}

/* Whether only an OPT without content for the client follows the records. */
static int ends_well(const struct plain *found, size_t at, size_t last, int hides_opt)
{
    if (!number16(found->octets + 10))
        return at == last;
    const unsigned char *opt = found->octets + at;
    if (number16(found->octets + 10) != 1 || at + OPT > last || opt[0])
        return 0;
    if (number16(opt + 1) != TYPE_OPT)
        return 0;
    size_t options = number16(opt + 9);
    int says_nothing = hides_opt || (!options && !opt[7] && !opt[8]);
    return !opt[5] && at + OPT + options == last && says_nothing;
}

int read_plain(struct plain *found, const unsigned char *octets, size_t length, int hides_opt)
{
    unsigned rcode = octets[3] & 15;
    unsigned answers = number16(octets + 6), authorities = number16(octets + 8);
    found->octets = octets;
    found->records = found->addresses = found->labels = 0;
    int denies = authorities == 1 && (!rcode || rcode == NXDOMAIN);
    size_t size = 0, at = name_end(found, HEADER, length, &size) + 4;
    if (length > MAX_REPLY || octets[2] & TC || (!denies && (rcode || authorities)))
        return 0;
    found->ttl = ~0u;
    found->uncompressed = HEADER + size + 4;
    at = answers_end(found, at, length, (int)answers, size);
    if (at && denies)
        at = denial_end(found, at, length);
    if (!at || denies == (found->addresses > 0)) /* both, or neither */
        return 0;
    found->end = at;
    found->is_error = rcode && answers;
    found->is_denial = denies && !found->is_error;
    return ends_well(found, at, length, hides_opt);
}
