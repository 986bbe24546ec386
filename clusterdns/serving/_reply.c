#include "_reply.h"

/* WORK bounds the labels and pointers followed in one reply, and the names looked up when it is
 * written: 0.1 ms at most. */
enum { BESIDE = 16384, WORK = 4096, KNOWN = 2048, MOST_KNOWN = 1024, MAX_POINTER = 0x3FFF };

static unsigned char beside[BESIDE]; /* names and RDATA in full, of the present reply */
static size_t used;
static int work;

static int is_alike(const unsigned char *one, const unsigned char *other, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        unsigned char differing = one[i] ^ other[i], letter = one[i] | 0x20;
        if (differing && (differing != 0x20 || letter < 'a' || letter > 'z'))
            return 0;
    }
    return 1;
}

static int is_same_name(const struct name *one, const struct name *other)
{
    return one->length == other->length && is_alike(one->octets, other->octets, one->length);
}

static unsigned number32(const unsigned char *from)
{
    return (unsigned)number16(from) << 16 | number16(from + 2);
}

int has_question(const unsigned char *octets, size_t length)
{
    size_t at = HEADER;
    if (!number16(octets + 4))
        return 1;
    if (number16(octets + 4) != 1)
        return 0;
    while (at < length && octets[at] && octets[at] <= MAX_LABEL)
        at += 1u + octets[at];
    return at < length && !octets[at] && at < HEADER + MAX_NAME && at + 5 <= length;
}

int answers_question(const unsigned char *octets, size_t length, const unsigned char *query,
                     size_t asked)
{
    size_t name = asked - 4;
    return length >= HEADER + asked && (octets[2] & 0xF8) == 0x80 && number16(octets + 4) == 1 &&
           is_alike(octets + HEADER, query + HEADER, name) &&
           !memcmp(octets + HEADER + name, query + HEADER + name, 4);
}

/* ---- reading */

/* Copy the name at `at` in full, 255 octets at most; returns the end of what stands there, 0 if it is
 * invalid. Pointers lead backwards only. */
static size_t copy_name(const unsigned char *octets, size_t at, size_t last, unsigned char *to,
                        size_t *copied, int *has_pointer)
{
    size_t size = 0, end = 0, lowest = at;
    for (;;) {
        if (at >= last || work-- <= 0)
            return 0;
        unsigned label = octets[at];
        if (label > MAX_LABEL) {
            if (label < 0xC0 || at + 2 > last)
                return 0;
            size_t target = number16(octets + at) & 0x3FFF;
            if (target >= lowest || target < HEADER)
                return 0;
            end = end ? end : at + 2;
            at = lowest = target;
            continue;
        }
        if (at + 1 + label > last || size + 1 + label > MAX_NAME)
            return 0;
        memcpy(to + size, octets + at, 1 + label);
        size += 1 + label;
        at += 1 + label;
        if (!label)
            break;
    }
    *copied = size;
    *has_pointer = end != 0;
    return end ? end : at;
}

/* Read the owner of a record; returns its end, 0 if it is invalid. */
static size_t read_owner(struct reply *found, size_t at, size_t last, struct name *owner)
{
    const unsigned char *octets = found->octets;
    int has_pointer, is_pointer = at + 2 <= last && octets[at] >= 0xC0;
    if (is_pointer && number16(octets + at) == found->pointer) {
        *owner = found->pointed; /* to the question, or as that of a record before */
        return at + 2;
    }
    if (used + MAX_NAME > BESIDE)
        return 0;
    owner->octets = beside + used;
    size_t end = copy_name(octets, at, last, beside + used, &owner->length, &has_pointer);
    if (end && has_pointer)
        used += owner->length;
    else
        owner->octets = octets + at;
    if (end && is_pointer) {
        found->pointer = number16(octets + at);
        found->pointed = *owner;
    }
    return end;
}

/* Names in RDATA: rdata.NAMES. */
struct layout {
    unsigned char before, names, strings, is_compressed;
};

/* Where RDATA of a type has names; NULL for a type that is left to Python. */
static const struct layout *layout_of(unsigned type)
{
    enum { MAX_TYPE = 108 };
    static const struct layout none, layouts[MAX_TYPE] = {
        [2] = {0, 1, 0, 1}, [3] = {0, 1, 0, 1}, [4] = {0, 1, 0, 1}, [5] = {0, 1, 0, 1},
        [6] = {0, 2, 0, 1}, [7] = {0, 1, 0, 1}, [8] = {0, 1, 0, 1}, [9] = {0, 1, 0, 1},
        [12] = {0, 1, 0, 1}, [14] = {0, 2, 0, 1}, [15] = {2, 1, 0, 1}, [17] = {0, 2, 0, 0},
        [18] = {2, 1, 0, 0}, [21] = {2, 1, 0, 0}, [23] = {0, 1, 0, 0}, [26] = {2, 2, 0, 0},
        [30] = {0, 1, 0, 0}, [33] = {6, 1, 0, 0}, [35] = {4, 1, 3, 0}, [36] = {2, 1, 0, 0},
        [39] = {0, 1, 0, 0}, [46] = {18, 1, 0, 0}, [47] = {0, 1, 0, 0}, [58] = {0, 2, 0, 0},
        [64] = {2, 1, 0, 0}, [65] = {2, 1, 0, 0}, [66] = {5, 1, 0, 0}, [107] = {2, 1, 0, 0},
    };
    enum { SIG = 24, A6 = 38, IPSECKEY = 45, HIP = 55, FIRST_META = 128, LAST_META = 255, AMTRELAY = 260 };
    if (type == SIG || type == A6 || type == IPSECKEY || type == HIP || type == AMTRELAY ||
        type == TYPE_OPT || (type >= FIRST_META && type <= LAST_META))
        return NULL;
    return type < MAX_TYPE ? &layouts[type] : &none;
}

/* Read RDATA between `at` and `end`; false if it is invalid, or left to Python. */
static int read_rdata(const struct reply *found, struct record *record, size_t at, size_t end, size_t last)
{
    const unsigned char *octets = found->octets;
    const struct layout *layout = layout_of(record->type);
    size_t length = end - at, first = at, copied;
    int has_pointer;
    record->rdata = (struct name){octets + at, length};
    if (!layout)
        return 0;
    if ((record->type == A && length != 4) || (record->type == AAAA && length != 16))
        return 0;
    if (!layout->names)
        return 1;
    at += layout->before;
    for (int i = 0; i < layout->strings && at < end; i++)
        at += 1u + octets[at];
    if (at >= end || used + length + 2 * MAX_NAME > BESIDE)
        return 0;
    unsigned char *to = beside + used;
    size_t size = at - first;
    memcpy(to, octets + first, size);
    for (int i = 0; i < layout->names; i++) {
        at = copy_name(octets, at, last, to + size, &copied, &has_pointer);
        if (!at || at > end)
            return 0;
        size += copied;
    }
    if (record->type == SOA && end - at != 20)
        return 0;
    memcpy(to + size, octets + at, end - at);
    record->rdata = (struct name){to, size + (end - at)};
    used += record->rdata.length;
    return 1;
}

/* Read the record at `at`; returns its end, 0 if it is invalid, or left to Python. */
static size_t read_record(struct reply *found, size_t at, size_t last)
{
    struct record *record = &found->record[found->records];
    if (found->records == MAX_RECORDS)
        return 0;
    size_t head = read_owner(found, at, last, &record->owner);
    if (!head || head + 10 > last)
        return 0;
    size_t rdata = head + 10, end = rdata + number16(found->octets + head + 8);
    record->head = head;
    record->type = number16(found->octets + head);
    if (end > last || number16(found->octets + head + 2) != 1 ||
        !read_rdata(found, record, rdata, end, last))
        return 0;
    found->records++;
    return end;
}

/* Whether only an OPT without content for the client is left, see read_reply. */
static int ends_well(const struct reply *found, size_t at, size_t last, int hides_opt, unsigned flags)
{
    const unsigned char *opt = found->octets + at;
    if (at + OPT > last || opt[0] || number16(opt + 1) != TYPE_OPT)
        return 0;
    size_t options = number16(opt + 9);
    unsigned said = number16(opt + 7);
    int says_nothing = hides_opt || (!options && (!said || said == flags));
    return !opt[5] && at + OPT + options == last && says_nothing;
}

/* Remove the authority and additional records of a positive answer: `minimal`. */
static int drop_others(struct reply *found, size_t end)
{
    int is_denial = !found->counts[0] && (found->has_soa || found->has_servers);
    if (found->rcode || is_denial)
        return 0;
    found->records = found->counts[0];
    found->counts[1] = found->counts[2] = 0;
    found->has_soa = found->has_servers = 0;
    found->end = end;
    return 1;
}

/* Note what the records say together. */
static void sum_up(struct reply *found)
{
    found->ttl = found->minimum = ~0u;
    found->uncompressed = HEADER + found->asked;
    for (int i = 0; i < found->records; i++) {
        const struct record *record = &found->record[i];
        unsigned ttl = number32(found->octets + record->head + 4);
        int is_authority = i >= found->counts[0] && i < found->counts[0] + found->counts[1];
        found->ttl = ttl < found->ttl ? ttl : found->ttl;
        found->uncompressed += record->owner.length + 10 + record->rdata.length;
        if (is_authority && record->type == SOA) {
            unsigned minimum = number32(record->rdata.octets + record->rdata.length - 4);
            found->minimum = minimum < found->minimum ? minimum : found->minimum;
        }
    }
    if (!found->records)
        found->ttl = 5; /* rules.MIN_TTL_S */
}

int read_reply(struct reply *found, const unsigned char *octets, size_t length, size_t asked,
               int hides_opt, unsigned flags, int is_minimal)
{
    size_t at = HEADER + asked, answers_end = 0;
    int has_opt = 0;
    found->octets = octets;
    found->asked = asked;
    found->rcode = octets[3] & 15;
    found->pointer = 0xC000 | HEADER;
    found->pointed = (struct name){octets + HEADER, asked - 4};
    found->records = found->has_soa = found->has_servers = 0;
    used = 0;
    work = WORK;
    if (length > MAX_REPLY || octets[2] & TC)
        return 0;
    if (found->rcode && found->rcode != SERVFAIL && found->rcode != NXDOMAIN && found->rcode != REFUSED)
        return 0;
    for (int section = 0; section < SECTIONS; section++) {
        int count = number16(octets + 6 + 2 * section);
        found->counts[section] = 0;
        for (int i = 0; i < count && at; i++) {
            has_opt = section == SECTIONS - 1 && i == count - 1 && at + 3 <= length &&
                      !memcmp(octets + at, "\0\0\x29", 3);
            if (has_opt)
                break;
            at = read_record(found, at, length);
            if (!at)
                return 0;
            unsigned type = found->record[found->records - 1].type;
            found->has_soa |= section == 1 && type == SOA;
            found->has_servers |= section == 1 && type == NS;
            found->counts[section]++;
        }
        answers_end = section ? answers_end : at;
    }
    found->end = at;
    hides_opt |= is_minimal && drop_others(found, answers_end);
    sum_up(found);
    return (has_opt ? ends_well(found, at, length, hides_opt, flags) : at == length) &&
           found->uncompressed <= MAX_OCTETS;
}

/* Whether aliases lead from the question to a record of its type: outcome.answers_question. -1 if
 * there are too many. */
static int is_answered(const struct reply *found)
{
    const struct record *aliases[MAX_ALIASES];
    struct name here = {found->octets + HEADER, found->asked - 4};
    unsigned wanted = number16(found->octets + HEADER + found->asked - 4);
    int count = 0;
    for (int i = 0; i < found->counts[0]; i++) {
        const struct record *record = &found->record[i];
        if (record->type != CNAME)
            continue;
        if (count == MAX_ALIASES)
            return -1;
        for (int k = 0; k < count; k++)
            if (is_same_name(&aliases[k]->owner, &record->owner) &&
                !is_same_name(&aliases[k]->rdata, &record->rdata))
                return 0; /* a fork */
        aliases[count++] = record;
    }
    for (int step = 0; step <= count; step++) {
        for (int i = 0; i < found->counts[0]; i++)
            if (found->record[i].type == wanted && is_same_name(&found->record[i].owner, &here))
                return 1;
        int next = 0;
        while (next < count && !is_same_name(&aliases[next]->owner, &here))
            next++;
        if (next == count || wanted == CNAME)
            return 0;
        here = aliases[next]->rdata;
    }
    return 0;
}

enum outcome outcome_of(const struct reply *found, int *is_complete)
{
    int answers = found->counts[0], is_good = 0;
    *is_complete = 1;
    if (found->rcode == SERVFAIL)
        return O_FAILURE;
    if (found->rcode) {
        *is_complete = found->rcode != NXDOMAIN || found->has_soa;
        return found->rcode == NXDOMAIN && !answers ? O_NXDOMAIN : O_OTHER;
    }
    if (answers) {
        is_good = is_answered(found);
        *is_complete = is_good < 0 ? -1 : is_good || found->has_soa;
        return found->has_soa && !is_good ? O_NODATA : O_SUCCESS;
    }
    if (found->has_soa)
        return O_NODATA;
    if (found->has_servers)
        return O_DELEGATION;
    return found->counts[2] ? O_SUCCESS : O_NODATA;
}

static int has_octets(const struct name *where, const unsigned char *wanted, size_t length)
{
    for (size_t at = 0; at + length <= where->length; at++)
        if (is_alike(where->octets + at, wanted, length))
            return 1;
    return 0;
}

int may_name(const struct reply *found, const unsigned char *zone, size_t length)
{
    for (int i = 0; i < found->records; i++)
        if (has_octets(&found->record[i].owner, zone, length) ||
            has_octets(&found->record[i].rdata, zone, length))
            return 1;
    return 0;
}

/* ---- writing */

/* Names written so far, by their octets: response._Writer. */
struct known {
    unsigned stamp, hash;
    unsigned short offset;
    struct name name;
};

struct writer {
    unsigned char *to;
    size_t at;
    struct name last; /* the last owner, known at `target` */
    unsigned target;
};

static struct known known[KNOWN];
static unsigned stamp;
static int known_count;

/* The place of a name: that where it is, or a free one. */
static struct known *place_of(const struct name *name, unsigned hash)
{
    for (unsigned i = hash;; i++) {
        struct known *place = &known[i % KNOWN];
        if (place->stamp != stamp)
            return place;
        if (place->hash == hash && place->name.length == name->length &&
            !memcmp(place->name.octets, name->octets, name->length))
            return place;
    }
}

/* The offset of a name written before; if there is none, it is noted as written at `at`. */
static unsigned seen_at(const struct name *name, unsigned hash, size_t at)
{
    struct known *place = place_of(name, hash);
    if (place->stamp == stamp)
        return place->offset;
    if (at <= MAX_POINTER && known_count < MOST_KNOWN) {
        known_count++;
        *place = (struct known){stamp, hash, (unsigned short)at, *name};
    }
    return 0;
}

static void write_pointer(struct writer *writer, unsigned target)
{
    write16(writer->to + writer->at, 0xC000 | target);
    writer->at += 2;
}

/* Write a name, with a pointer to what was written before if `compresses`. */
static void write_name(struct writer *writer, struct name name, int compresses)
{
    unsigned starts[MAX_NAME / 2 + 1], hashes[MAX_NAME / 2 + 1], hash = 2166136261u;
    int labels = 0;
    work--;
    for (size_t i = 0; name.octets[i]; i += 1u + name.octets[i])
        starts[labels++] = (unsigned)i;
    size_t end = name.length - 1;
    for (int i = labels; i-- > 0; end = starts[i]) { /* FNV-1a of each suffix, the last label first */
        for (size_t k = starts[i]; k < end; k++)
            hash = (hash ^ name.octets[k]) * 16777619u;
        hashes[i] = hash;
    }
    work -= labels;
    for (int i = 0; i < labels; i++) {
        struct name suffix = {name.octets + starts[i], name.length - starts[i]};
        unsigned target = seen_at(&suffix, hashes[i], writer->at + starts[i]);
        if (target && compresses) {
            memcpy(writer->to + writer->at, name.octets, starts[i]);
            writer->at += starts[i];
            write_pointer(writer, target);
            return;
        }
    }
    memcpy(writer->to + writer->at, name.octets, name.length);
    writer->at += name.length;
}

/* Write an owner; many are the same octets of the reply. */
static void write_owner(struct writer *writer, struct name owner)
{
    size_t start = writer->at;
    if (writer->target && owner.octets == writer->last.octets) {
        write_pointer(writer, writer->target);
        work--;
        return;
    }
    write_name(writer, owner, 1);
    int is_whole = writer->at == start + owner.length || writer->at == start + 2;
    writer->last = owner;
    writer->target = 0;
    if (is_whole && owner.length > 2)
        writer->target = writer->at == start + 2 ? number16(writer->to + start) & MAX_POINTER
                       : start <= MAX_POINTER    ? (unsigned)start : 0;
}

static void write_octets(struct writer *writer, const unsigned char *octets, size_t length)
{
    memcpy(writer->to + writer->at, octets, length);
    writer->at += length;
}

static size_t length_of(const unsigned char *name)
{
    size_t at = 0;
    while (name[at])
        at += 1u + name[at];
    return at + 1;
}

static void write_rdata(struct writer *writer, const struct record *record)
{
    enum { SRV = 33 };
    const struct layout *layout = layout_of(record->type);
    const unsigned char *rdata = record->rdata.octets, *end = rdata + record->rdata.length;
    size_t start = writer->at;
    if (layout->is_compressed || record->type == SRV) { /* to SRV targets is pointed only */
        write_octets(writer, rdata, layout->before);
        rdata += layout->before;
        for (int i = 0; i < layout->names; i++) {
            struct name name = {rdata, length_of(rdata)};
            write_name(writer, name, layout->is_compressed);
            rdata += name.length;
        }
    }
    write_octets(writer, rdata, (size_t)(end - rdata));
    write16(writer->to + start - 2, (unsigned)(writer->at - start));
}

size_t write_records(unsigned char *to, const struct reply *found, const short *order,
                     const unsigned *ttl, size_t limit, int counts[SECTIONS], int *is_cut)
{
    struct writer writer = {.to = to, .at = HEADER};
    struct name question = {found->question, found->asked - 4};
    if (!++stamp) { /* gone round */
        memset(known, 0, sizeof known);
        stamp = 1;
    }
    known_count = *is_cut = 0;
    work = WORK;
    write_name(&writer, question, 0);
    write_octets(&writer, found->question + question.length, 4);
    counts[0] = counts[1] = counts[2] = 0;
    for (int i = 0, section = 0, left = found->counts[0]; i < found->records; i++, left--) {
        const struct record *record = &found->record[order[i]];
        while (!left)
            left = found->counts[++section];
        size_t mark = writer.at;
        write_owner(&writer, record->owner);
        write_octets(&writer, found->octets + record->head, 10);
        if (ttl) {
            write16(to + writer.at - 6, *ttl >> 16);
            write16(to + writer.at - 4, *ttl);
        }
        write_rdata(&writer, record);
        if (known_count == MOST_KNOWN || work <= 0)
            return 0;
        if (writer.at > limit) {
            *is_cut = 1;
            return mark;
        }
        counts[section]++;
    }
    return writer.at;
}
