/* AnswerTable.reply for a whole batch of datagrams. table.py is the specification, and runs if this
 * was not compiled; tests verify that both give the same octets for every packet.
 *
 * One system call receives up to BATCH queries, another sends all replies. A reply is not copied:
 * its pieces are the query's own octets and the bytes objects of the answer, which stay alive
 * because the interpreter's lock is held from the first lookup until the last piece is sent. A miss
 * is forwarded if a lane takes it, see _relay.c; the others are returned to Python.
 */
#include "_relay.h"
#include "_addresses.h"
#include "_limit.h"
#include "_sample.h"
#include "_siphash.h"
#include <arpa/inet.h>
#include <limits.h>
#include <sys/epoll.h>
#include <time.h>

/* OCTETS: CoreDNS receives into 512, a longer query is cut. MORE: of an UPDATE. PIECES: ID, head, question, body, OPT, and
 * its end if that has changed. ROOM: for the framed replies of a stream, but for the last.
 * SLOTS: a reply's counts, see tally.py. MANY_SEEN: MANY in observed.py,
 * where it is BATCH with the replies. */
enum {
    BATCH = 64, OCTETS = 512, MORE = 16384 - OCTETS, PIECES = 6, ROOM = 256 * 1024, SLOTS = 4, MANY_SEEN = 1024,
    OPT_HEAD = 9, MAX_QUESTION = MAX_NAME + 4, CUT_HEAD = 10
};

#define SILENT SIZE_MAX

static unsigned char octets[BATCH][OCTETS], more[BATCH][MORE];
static struct client clients[BATCH];
static struct iovec rooms[BATCH][2], pieces[BATCH][PIECES];
static struct mmsghdr queries[BATCH], replies[BATCH];

typedef struct {
    PyObject *lasting, *passing; /* key -> answer */
    PyObject *denials;           /* node or cut, and key -> answer */
    PyObject *hits;              /* counts by slot */
    int least, most;             /* octets that `bufsize` allows */
    int passes_options;
    PyObject *seen;              /* the list of observed hits, or NULL */
    int keeps_replies;           /* whether observers want the octets of replies */
    PyObject *sampler;           /* of hits that are looked at, or NULL */
    PyObject *classes;           /* address -> (lasting, passing, denials) of its class, or NULL */
    double now;
    int is_stream;               /* no limit of a datagram */
} Table;

/* A plain query, as AnswerTable.reply reads it. */
typedef struct {
    const unsigned char *question, *opt; /* NULL: no OPT */
    size_t asked;                        /* octets of the question */
    size_t extra;                        /* octets of EDNS options */
    Py_ssize_t limit;                    /* octets the client takes */
    int form, is_spelled;                /* with a capital in the name */
    int is_bounded;                      /* to less than its OPT names */
    unsigned char key[MAX_QUESTION + 2]; /* the question folded, CD + 2 DO, octets of the name */
} Query;

/* The items of an answer, see table.py. */
enum { UNTIL, SLOT, HEADS, IS_FREE, SPARED, CHILDREN, BODY };

/* Read AnswerTable.maps with the counts of a transport: an argument's converter. */
static int read_table(PyObject *maps, void *into)
{
    Table *table = into;
    if (!PyTuple_Check(maps)) {
        PyErr_SetString(PyExc_TypeError, "the table is no tuple");
        return 0;
    }
    PyObject *seen = Py_None, *sampler = NULL, *classes = NULL;
    if (!PyArg_ParseTuple(maps, "O!O!O!O!iip|OpOO:table", &PyDict_Type, &table->lasting, &PyDict_Type,
                          &table->passing, &PyDict_Type, &table->denials, &PyList_Type,
                          &table->hits, &table->least, &table->most, &table->passes_options, &seen,
                          &table->keeps_replies, &sampler, &classes))
        return 0;
    table->sampler = is_sampler(sampler) ? sampler : NULL;
    table->seen = PyList_Check(seen) ? seen : NULL;
    table->classes = classes && PyDict_Check(classes) ? classes : NULL;
    return 1;
}

/* A number, or -1 if it is none or too large. */
static Py_ssize_t number_of(PyObject *object)
{
    Py_ssize_t found = object && PyLong_Check(object) ? PyLong_AsSsize_t(object) : -1;
    if (found == -1)
        PyErr_Clear();
    return found;
}

/* Add to one of a list of counts; false if there is no such place. */
static int add_to(PyObject *counts, Py_ssize_t place, Py_ssize_t more)
{
    if (place < 0 || place >= PyList_GET_SIZE(counts))
        return 0;
    PyObject *after = PyLong_FromSsize_t(number_of(PyList_GET_ITEM(counts, place)) + more);
    return after && PyList_SetItem(counts, place, after) == 0;
}

/* Count a hit; false if there is no such slot. */
static int count_hit(PyObject *hits, PyObject *slot, const Query *query)
{
    Py_ssize_t place = number_of(slot);
    if (place < 0)
        return 0;
    if (!query->extra)
        return add_to(hits, place + (query->opt != NULL), 1);
    return place + SLOTS <= PyList_GET_SIZE(hits) && add_to(hits, place + 2, 1) &&
           add_to(hits, place + 3, (Py_ssize_t)query->extra);
}

/* Whether the gate accepts an EDNS option: reading.is_option. No option gets an answer. */
static int is_option(unsigned code, const unsigned char *data, size_t length)
{
    enum { LLQ = 1, LEASE, SUBNET = 8, EXPIRE, KEEPALIVE = 11, EXTENDED_ERROR = 15 };
    switch (code) {
    case SUBNET: {
        if (length < 4)
            return 0;
        unsigned family = number16(data), most = family == 0 ? 0 : family == 1 ? 32 : 128;
        return family <= 2 && data[2] <= most && (data[3] <= most || !most);
    }
    case LLQ:
        return length >= 18;
    case LEASE:
        return length == 4 || length == 8;
    case EXPIRE:
        return !length || (length >= 4 && length < 512);
    case KEEPALIVE:
        return !length || length == 2;
    case EXTENDED_ERROR:
        return length >= 2;
    default:
        return 1;
    }
}

enum { MAX_OPTIONS = 64 }; /* reading.MAX_OPTIONS */

/* Read the OPT from `at` on, which ends the packet; false for one that is not plain. */
static int read_opt(const Table *table, Query *query, const unsigned char *packet, size_t at,
                    size_t length)
{
    const unsigned char *opt = packet + at;
    if (length < at + OPT || memcmp(opt, "\0\0\x29", 3))
        return 0;
    query->extra = length - at - OPT;
    if (number16(opt + OPT_HEAD) != query->extra)
        return 0;
    int count = 0;
    for (size_t i = at + OPT, end; i < length; i = end) {
        if (i + 4 > length || ++count > MAX_OPTIONS)
            return 0;
        end = i + 4 + number16(packet + i + 2);
        if (end > length || !is_option(number16(packet + i), packet + i + 4, end - i - 4))
            return 0;
    }
    query->opt = opt;
    if (opt[6])
        return table->passes_options; /* BADVERS */
    if (query->extra && !table->passes_options)
        return 0;
    int size = number16(opt + 3);
    query->is_bounded = size > table->least;
    if (query->is_bounded && table->least != table->most)
        return 0;
    size = query->is_bounded ? table->least : size;
    query->limit = size > LEAST_LIMIT ? size > MAX_UDP ? MAX_UDP : size : LEAST_LIMIT;
    if (opt[7] & DO)
        query->form |= FORM_AD; /* who sets DO understands AD */
    return 1;
}

/* Read a query; false for one that is not plain. */
static int read_query(const Table *table, Query *query, const unsigned char *packet, size_t length)
{
    query->form = form_of(packet, length);
    if (query->form < 0)
        return 0;
    query->question = packet + HEADER;
    const unsigned char *root = memchr(query->question, 0, length - HEADER);
    size_t name = root ? (size_t)(root - query->question) + 1 : 0;
    query->asked = name + 4;
    if (!name || name > MAX_NAME || length < HEADER + query->asked)
        return 0;
    query->opt = NULL;
    query->extra = 0;
    query->is_bounded = 0;
    query->limit = LEAST_LIMIT;
    if (query->form & FORM_OPT) {
        if (!read_opt(table, query, packet, HEADER + query->asked, length))
            return 0;
    } else if (length != HEADER + query->asked) {
        return 0;
    }
    query->is_spelled = fold(query->key, query->question, name);
    memcpy(query->key + name, query->question + name, 4);
    query->key[name + 4] = (unsigned char)((query->form & FORM_CD) >> 3 |
                                           (query->opt && query->opt[7] & DO ? 2 : 0));
    query->key[name + 5] = (unsigned char)name;
    return 1;
}

/* Whether an object is what may be below a node: it always is. */
static int is_children(PyObject *children)
{
    if (PyTuple_Check(children))
        return is_addresses(children);
    return children == Py_None || PyAnySet_Check(children) || PyBytes_Check(children);
}

/* Whether an object of the table is an answer: it always is. */
static int is_answer(PyObject *found)
{
    if (!found || !PyTuple_Check(found) || PyTuple_GET_SIZE(found) <= BODY)
        return 0;
    PyObject *heads = PyTuple_GET_ITEM(found, HEADS), *children = PyTuple_GET_ITEM(found, CHILDREN);
    return PyFloat_Check(PyTuple_GET_ITEM(found, UNTIL)) && PyTuple_Check(heads) &&
           PyTuple_GET_SIZE(heads) >= FORMS && PyBytes_Check(PyTuple_GET_ITEM(found, SPARED)) &&
           is_children(children);
}

/* Whether a label, which begins with its length, holds any of some octets. */
static int has_any(PyObject *some, const unsigned char *label)
{
    const char *octets = PyBytes_AS_STRING(some);
    size_t count = (size_t)PyBytes_GET_SIZE(some);
    for (int i = 1; i <= label[0]; i++)
        if (memchr(octets, label[i], count))
            return 1;
    return 0;
}

/* Whether the name of a query may exist, whose label at `left` is right below a node: _may_have. */
static int may_have(PyObject *children, const unsigned char *name, size_t length, size_t left)
{
    const unsigned char *label = name + left;
    if (PyTuple_Check(children))
        return has_address(children, label, name, length);
    if (PyBytes_Check(children))
        return has_any(children, label);
    return has_label(children, label);
}

/* The answer of the cut that a question lies below, or of the node that denies it, borrowed:
 * AnswerTable._denial. */
static PyObject *denial_of(const Table *table, const Query *query)
{
    const unsigned char *key = query->key;
    size_t name = query->asked - 4, left = 0;
    if (!PyDict_GET_SIZE(table->denials) || memcmp(key + name + 2, "\0\1", 2))
        return NULL;
    for (size_t i = 0; i < name - 1; left = i, i += 1u + key[i]) {
        PyObject *found = look_up(table->denials, key + i, name + 6 - i);
        if (is_answer(found)) {
            PyObject *spared = PyTuple_GET_ITEM(found, SPARED);
            PyObject *children = PyTuple_GET_ITEM(found, CHILDREN);
            size_t octets = (size_t)PyBytes_GET_SIZE(spared);
            if (octets && octets <= name + 5 && !memcmp(key, PyBytes_AS_STRING(spared), octets))
                return NULL;
            if (children != Py_None && (!i || may_have(children, key, name, left)))
                return NULL;
            return found;
        }
        if (!key[i] || key[i] > MAX_LABEL)
            return NULL;
    }
    return NULL;
}

/* The answer to a query, borrowed; NULL if there is none: AnswerTable._find. */
static PyObject *answer_to(const Table *table, const Query *query)
{
    size_t length = query->asked + 1;
    PyObject *key = PyBytes_FromStringAndSize((const char *)query->key, (Py_ssize_t)length);
    PyObject *found = key ? PyDict_GetItemWithError(table->lasting, key) : NULL;
    if (!found && key)
        found = PyDict_GetItemWithError(table->passing, key);
    Py_XDECREF(key);
    if (!found) {
        PyErr_Clear();
        found = denial_of(table, query);
    }
    if (query->is_spelled && !(is_answer(found) && PyTuple_GET_ITEM(found, IS_FREE) == Py_True)) {
        unsigned char spelled[MAX_QUESTION + 1];
        memcpy(spelled, query->question, query->asked);
        spelled[query->asked] = query->key[query->asked];
        found = look_up(table->passing, spelled, length);
    }
    if (!is_answer(found) || PyFloat_AS_DOUBLE(PyTuple_GET_ITEM(found, UNTIL)) <= table->now)
        return NULL;
    return found;
}

/* The table of a client's class, in `own` if it has one of its own; NULL if Python has to find it out:
 * ClassTables.reply in classes.py. */
static const Table *table_of(const Table *table, const struct client *client, Table *own)
{
    if (!table->classes)
        return table;
    unsigned char address[sizeof(struct in6_addr)];
    size_t length = (size_t)octets_of_address(&client->address, address);
    PyObject *found = look_up(table->classes, address, length);
    if (!found || !PyTuple_Check(found) || PyTuple_GET_SIZE(found) != 3)
        return NULL;
    *own = *table;
    own->lasting = PyTuple_GET_ITEM(found, 0);
    own->passing = PyTuple_GET_ITEM(found, 1);
    own->denials = PyTuple_GET_ITEM(found, 2);
    if (!PyDict_Check(own->lasting) || !PyDict_Check(own->passing) || !PyDict_Check(own->denials))
        return NULL;
    return own;
}

static struct iovec piece_of(PyObject *bytes)
{
    return (struct iovec){PyBytes_AS_STRING(bytes), (size_t)PyBytes_GET_SIZE(bytes)};
}

/* The verdict on a hit of a client, by its rate; without a client it is not limited. */
static enum verdict judge(PyObject *heads, const struct client *client, double now)
{
    PyObject *found = PyTuple_GET_SIZE(heads) > FORMS + 1 ? PyTuple_GET_ITEM(heads, FORMS + 1) : NULL;
    if (!client || !found || !PyObject_TypeCheck(found, &limit_buckets))
        return ANSWER;
    return limit_judge(found, &client->address, now, 1);
}

/* The header behind the ID of an empty reply with TC: _CUT_HEADS of table.py. */
static unsigned char *cut_head(int form)
{
    static unsigned char heads[FORMS][CUT_HEAD];
    unsigned char *head = heads[form];
    head[0] = (unsigned char)(0x80 | TC | (form & 1));
    head[1] = form & FORM_CD ? CD : 0;
    head[3] = 1;
    head[9] = form & FORM_OPT ? 1 : 0;
    return head;
}

/* Set the pieces of the OPT of a reply: that of the query if it can stay, else its start and an end
 * without extended rcode, low flags and options; bounded to the same size for all of a batch. */
static void write_opt(const Table *table, const Query *query, unsigned char *packet,
                      struct iovec *reply)
{
    enum { START = 5, END = OPT - START };
    static unsigned char bounded[OPT] = {0, 0, TYPE_OPT}, ends[256][END]; /* by the flags that stay */
    unsigned char *opt = packet + HEADER + query->asked;
    reply[4] = (struct iovec){opt, query->opt ? OPT : 0};
    reply[5] = (struct iovec){opt, 0};
    if (!query->opt || !(query->extra || query->is_bounded || opt[5] || opt[8]))
        return;
    unsigned char *end = ends[opt[7]];
    end[2] = opt[7];
    if (query->is_bounded)
        write16(bounded + 3, (unsigned)table->least);
    reply[4] = (struct iovec){query->is_bounded ? bounded : opt, START};
    reply[5] = (struct iovec){end, END};
}

/* Compose BADVERS and return its octets, 0 for a miss: _bad_version in table.py. */
static size_t compose_bad_version(const Query *query, unsigned char *packet, struct iovec *reply)
{
    static unsigned char heads[FORMS][HEADER - 2], opt[OPT] = {0, 0, TYPE_OPT, 0, 0, 1};
    const unsigned char *name = query->question;
    size_t at = 0, root = query->asked - 5;
    while (at < root && name[at] <= MAX_LABEL)
        at += 1u + name[at];
    if (at != root || number16(name + root + 3) != 1)
        return 0;
    unsigned char *head = heads[query->form];
    head[0] = (unsigned char)(QR | (query->form & FORM_RD));
    head[1] = query->form & FORM_CD ? CD : 0;
    head[3] = head[9] = 1; /* a question, an additional record */
    reply[0] = (struct iovec){packet, 2};
    reply[1] = (struct iovec){head, HEADER - 2};
    reply[2] = (struct iovec){packet + HEADER, query->asked};
    reply[3] = (struct iovec){opt, OPT};
    reply[4] = reply[5] = (struct iovec){packet, 0};
    return HEADER + query->asked + OPT;
}

/* Compose the reply to a query and return its octets, 0 for a miss, SILENT to send none. `note` is the
 * note for observers, borrowed, or NULL; `client` is NULL if its rate is not limited. */
static size_t compose(const Table *table, unsigned char *packet, size_t length, struct iovec *reply,
                      PyObject **note, const struct client *client)
{
    Query query;
    *note = NULL;
    if (!read_query(table, &query, packet, length))
        return 0;
    if (query.opt && query.opt[6])
        return compose_bad_version(&query, packet, reply);
    PyObject *answer = answer_to(table, &query);
    if (!answer)
        return 0;
    Py_ssize_t orders = PyTuple_GET_SIZE(answer) - BODY;
    PyObject *heads = PyTuple_GET_ITEM(answer, HEADS), *head = PyTuple_GET_ITEM(heads, query.form);
    *note = PyTuple_GET_SIZE(heads) > FORMS ? PyTuple_GET_ITEM(heads, FORMS) : Py_None;
    if (*note == Py_None)
        *note = NULL;
    PyObject *body = PyTuple_GET_ITEM(answer, BODY + packet[1] % orders);
    if (!PyBytes_Check(head) || !PyBytes_Check(body) || (*note && !table->seen))
        return 0;
    reply[0] = (struct iovec){packet, 2};
    reply[1] = piece_of(head);
    reply[2] = (struct iovec){packet + HEADER, query.asked};
    reply[3] = piece_of(body);
    write_opt(table, &query, packet, reply);
    size_t total = 0;
    for (int i = 0; i < PIECES; i++)
        total += reply[i].iov_len;
    if ((Py_ssize_t)total > (table->is_stream ? MAX_OCTETS : query.limit))
        return 0;
    if (PyTuple_GET_SIZE(heads) > FORMS + 1) {
        enum verdict verdict = judge(heads, client, table->now);
        if (verdict != ANSWER)
            *note = NULL;
        if (verdict == STAY_SILENT)
            return SILENT;
        if (verdict == TRUNCATE) {
            total -= reply[1].iov_len + reply[3].iov_len - CUT_HEAD;
            reply[1] = (struct iovec){cut_head(query.form), CUT_HEAD};
            reply[3].iov_len = 0;
            return total;
        }
    }
    return count_hit(table->hits, PyTuple_GET_ITEM(answer, SLOT), &query) ? total : 0;
}

/* Send replies; return how many could not be sent, and so are lost. */
static int send_all(int fd, int count)
{
    int unsent = 0;
    for (int next = 0; next < count;) {
        int sent = sendmmsg(fd, replies + next, (unsigned)(count - next), MSG_DONTWAIT);
        unsent += sent <= 0;
        next += sent > 0 ? sent : 1;
    }
    return unsent;
}

/* Cut a datagram, unless it is an UPDATE, which may be long (RFC 2136); return whether it fits OCTETS. */
static int cut(int i)
{
    enum { OPCODE_MASK = 0x78, UPDATE = 5 << 3 };
    if (queries[i].msg_len <= OCTETS)
        return 1;
    if ((octets[i][2] & OPCODE_MASK) == UPDATE)
        return 0;
    queries[i].msg_len = OCTETS;
    return 1;
}

/* The octets of a datagram; NULL without memory. */
static PyObject *octets_of(int i)
{
    size_t length = queries[i].msg_len, first = length < OCTETS ? length : OCTETS;
    PyObject *whole = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)length);
    if (whole) {
        memcpy(PyBytes_AS_STRING(whole), octets[i], first);
        memcpy(PyBytes_AS_STRING(whole) + first, more[i], length - first);
    }
    return whole;
}

/* Append a query to those that are left to Python. */
static void leave(PyObject *left, int i)
{
    PyObject *pair = Py_BuildValue("(NNy#)", octets_of(i), client_of(&clients[i]), &clients[i].source,
                                   (Py_ssize_t)clients[i].source_octets);
    if (pair)
        PyList_Append(left, pair);
    Py_XDECREF(pair);
}

/* Monotonic seconds. */
static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* An observed hit: its note, owned, and the index of its query in the batch. */
typedef struct {
    PyObject *note;
    int query, reply;
} Noted;

/* The octets of a reply; NULL without memory. */
static PyObject *whole_reply(const struct iovec *reply)
{
    size_t total = 0;
    for (int i = 0; i < PIECES; i++)
        total += reply[i].iov_len;
    PyObject *kept = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)total);
    char *at = kept ? PyBytes_AS_STRING(kept) : NULL;
    for (int i = 0; i < PIECES && kept; i++) {
        memcpy(at, reply[i].iov_base, reply[i].iov_len);
        at += reply[i].iov_len;
    }
    return kept;
}

/* The octets of a reply if observers want them, else None; NULL without memory. */
static PyObject *kept_reply(const Table *table, const struct iovec *reply)
{
    return table->keeps_replies ? whole_reply(reply) : Py_NewRef(Py_None);
}

/* The kind of a hit, by its return code. */
static enum kind kind_of_hit(const struct iovec *reply)
{
    return kind_of(((const unsigned char *)reply[1].iov_base)[1] & 15, 0); /* [0] is the ID */
}

/* Keep those of the hits of a batch that are looked at; `asked` has the query of each. */
static void look_at(const Table *table, const int *asked, int hits)
{
    if (!table->sampler)
        return;
    double taken = 0;
    for (int i = 0; i < hits; i++) {
        int n = asked[i], stands_for = sample_draw(table->sampler, kind_of_hit(pieces[i]));
        if (!stands_for)
            continue;
        if (!taken)
            taken = (seconds() - table->now) / hits;
        sample_keep(table->sampler, stands_for, octets[n], queries[n].msg_len, &clients[n],
                    taken > 0 ? taken : 0.0, table->now, whole_reply(pieces[i]));
    }
}

/* Append hits to the list for observers, each with its share of the time of the batch:
 * (note, query, client, seconds, start, reply). They are dropped if that fails. */
static void observe(const Table *table, const Noted *noted, int count, int hits)
{
    double taken = count ? (seconds() - table->now) / hits : 0.0;
    for (int i = 0; i < count; i++) {
        int n = noted[i].query;
        PyObject *record = Py_BuildValue("(Ny#NddN)", noted[i].note, octets[n],
                                         (Py_ssize_t)queries[n].msg_len, client_of(&clients[n]),
                                         taken > 0 ? taken : 0.0, table->now,
                                         kept_reply(table, pieces[noted[i].reply]));
        if (record)
            PyList_Append(table->seen, record);
        Py_XDECREF(record);
    }
}

/* Receive a batch and answer the hits; -1 on an error. `zones` has the lanes for misses: zone -> lane,
 * or None. */
static int take_batch(const Table *table, int fd, PyObject *zones, PyObject *left, int *unsent)
{
    int hits = 0, misses = 0, count = 0, silent = 0, missed[BATCH], asked[BATCH];
    Noted noted[BATCH];
    PyObject *note;
    int taken = recvmmsg(fd, queries, BATCH, MSG_DONTWAIT, NULL);
    for (int i = 0; i < taken; i++) {
        struct msghdr *query = &queries[i].msg_hdr, *reply = &replies[hits].msg_hdr;
        turn_around(&clients[i], query->msg_controllen);
        size_t total = 0;
        Table own;
        const Table *mine = table_of(table, &clients[i], &own);
        if (mine && cut(i))
            total = compose(mine, octets[i], queries[i].msg_len, pieces[hits], &note, &clients[i]);
        if (total == SILENT) {
            silent++;
        } else if (total) {
            if (note)
                noted[count++] = (Noted){Py_NewRef(note), i, hits};
            reply->msg_name = query->msg_name;
            reply->msg_namelen = query->msg_namelen;
            reply->msg_control = clients[i].source_octets ? &clients[i].source : NULL;
            reply->msg_controllen = clients[i].source_octets;
            reply->msg_iovlen = pieces[hits][PIECES - 1].iov_len ? PIECES : PIECES - 1;
            asked[hits++] = i;
        } else {
            missed[misses++] = i;
        }
    }
    *unsent = send_all(fd, hits); /* they do not wait for those that went out to others */
    observe(table, noted, count, hits);
    look_at(table, asked, hits);
    int is_limited = misses && zones && look_up(zones, octets[0], 0); /* by name, see relay.py */
    for (int i = 0; i < misses && !PyErr_Occurred(); i++) {
        int n = missed[i];
        size_t length = queries[n].msg_len;
        const struct client *client = &clients[n];
        if (length > OCTETS)
            leave(left, n);
        else if (is_limited && relay_refuses(zones, fd, octets[n], length, client, table->now))
            silent++;
        else if (!relay_takes(zones, fd, octets[n], length, client, table->now))
            leave(left, n);
    }
    relay_send();
    for (int i = 0; i < taken; i++) {
        queries[i].msg_hdr.msg_namelen = sizeof clients[i].address;
        queries[i].msg_hdr.msg_controllen = sizeof clients[i].source;
    }
    return PyErr_Occurred() ? -1 : hits + silent;
}

static PyObject *drain(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    int fd, hits, unsent;
    Table table = {.is_stream = 0};
    PyObject *zones = NULL;
    if (!PyArg_ParseTuple(arguments, "iO&d|O!:drain", &fd, read_table, &table, &table.now,
                          &PyDict_Type, &zones))
        return NULL;
    PyObject *left = PyList_New(0);
    if (!left || (hits = take_batch(&table, fd, zones, left, &unsent)) < 0) {
        Py_XDECREF(left);
        return NULL;
    }
    return Py_BuildValue("(iiN)", hits, unsent, left);
}

/* Add the time of a batch to those so far, nanoseconds at the end. */
static void note_batch(PyObject *times, int hits, double taken)
{
    if (hits > 0 && add_to(times, time_bucket(taken / hits), hits))
        add_to(times, PyList_GET_SIZE(times) - 1, (Py_ssize_t)(taken * 1e9));
}

/* Call a function in Python; return whether asyncio has work now, -1 on an error. */
static int call(PyObject *function, double *now)
{
    Py_INCREF(function);
    PyObject *told = PyObject_CallNoArgs(function);
    int wanted = told ? PyObject_IsTrue(told) : -1;
    Py_XDECREF(told);
    Py_DECREF(function);
    *now = seconds();
    return wanted;
}

/* Receive a batch of queries, and let Python handle the rest; return whether asyncio has work now, -1
 * on an error. */
static int serve_queries(PyObject *reader, int fd, double *now)
{
    Table table = {.now = *now};
    PyObject *zones, *times, *left, *finish;
    int hits, unsent;
    Py_ssize_t before, after;
    if (!PyArg_ParseTuple(reader, "O&O!O!O!O:wait", read_table, &table, &PyDict_Type, &zones,
                          &PyList_Type, &times, &PyList_Type, &left, &finish))
        return -1;
    before = table.seen ? PyList_GET_SIZE(table.seen) : 0;
    hits = take_batch(&table, fd, zones, left, &unsent);
    *now = seconds();
    note_batch(times, hits, *now - table.now);
    if (PyErr_Occurred())
        return -1;
    after = table.seen ? PyList_GET_SIZE(table.seen) : 0;
    Py_ssize_t many = table.keeps_replies ? BATCH : MANY_SEEN;
    int is_due = (after && !before) || after >= many; /* to set a timer, or to report them */
    return PyList_GET_SIZE(left) || is_due ? call(finish, now) : 0;
}

/* Pass on replies, likewise. */
static int serve_replies(PyObject *reader, double *now)
{
    PyObject *left, *finish;
    if (!PyArg_ParseTuple(reader, "O!O:wait", &PyList_Type, &left, &finish))
        return -1;
    int wanted = relay_gathers(left, *now);
    *now = seconds();
    return wanted > 0 ? call(finish, now) : wanted;
}

/* Serve a ready descriptor; return whether asyncio has to, -1 on an error. */
static int serve(PyObject *readers, const struct epoll_event *event, double *now)
{
    enum { REPLIES = 2 };
    PyObject *number = PyLong_FromLong(event->data.fd);
    PyObject *reader = number ? PyDict_GetItemWithError(readers, number) : NULL;
    Py_XDECREF(number);
    if (!reader)
        return PyErr_Occurred() ? -1 : 1;
    if (!PyTuple_Check(reader))
        return call(reader, now);
    Py_INCREF(reader);
    int is_replies = PyTuple_GET_SIZE(reader) == REPLIES;
    int wanted = is_replies ? serve_replies(reader, now)
                            : serve_queries(reader, event->data.fd, now);
    Py_DECREF(reader);
    return wanted;
}

/* wait(epoll, timeout, readers): as epoll_wait, but descriptors of readers do not end it; returns the
 * other descriptors. */
static PyObject *wait_for(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    struct epoll_event ready[BATCH];
    int epoll, count = 1, wanted = 0;
    double timeout = 0, now = seconds();
    PyObject *readers, *found = PyList_New(0);
    if (!found || !PyArg_ParseTuple(arguments, "idO!:wait", &epoll, &timeout, &PyDict_Type, &readers))
        count = -1;
    double end = now + timeout;
    while (count > 0 && wanted >= 0 && !PyList_GET_SIZE(found) && now <= end) {
        int left_ms = end - now < INT_MAX / 1000 ? (int)((end - now) * 1000) + 1 : -1;
        Py_BEGIN_ALLOW_THREADS
        count = epoll_wait(epoll, ready, BATCH, left_ms);
        Py_END_ALLOW_THREADS
        now = seconds();
        for (int i = 0; i < count && wanted >= 0; i++) {
            wanted = serve(readers, &ready[i], &now);
            PyObject *number = wanted > 0 ? PyLong_FromLong(ready[i].data.fd) : NULL;
            if (number)
                PyList_Append(found, number);
            Py_XDECREF(number);
        }
    }
    if (PyErr_Occurred())
        Py_CLEAR(found);
    return found;
}

/* Write the framed reply to a message; return its octets, 0 for a miss. */
static size_t write_frame(const Table *table, unsigned char *packet, size_t length, char *frame)
{
    struct iovec reply[PIECES];
    PyObject *note;
    int stands_for = 0;
    size_t total = compose(table, packet, length, reply, &note, NULL), at = 2;
    if (!total)
        return 0;
    if (note && table->seen) {
        PyObject *record = Py_BuildValue("(Oy#N)", note, packet, (Py_ssize_t)length,
                                         kept_reply(table, reply));
        if (record)
            PyList_Append(table->seen, record);
        Py_XDECREF(record);
    }
    if (table->sampler && table->seen)
        stands_for = sample_draw(table->sampler, kind_of_hit(reply));
    if (stands_for) {
        PyObject *record = Py_BuildValue("(iy#N)", stands_for, packet, (Py_ssize_t)length,
                                         whole_reply(reply));
        if (record)
            PyList_Append(table->seen, record);
        Py_XDECREF(record);
    }
    for (int i = 0; i < PIECES; i++) {
        memcpy(frame + at, reply[i].iov_base, reply[i].iov_len);
        at += reply[i].iov_len;
    }
    frame[0] = (char)(total >> 8);
    frame[1] = (char)total;
    return 2 + total;
}

/* Crowd.answer_hits of connection.py, which is the specification. */
static PyObject *answer(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    static char frames[ROOM + 2 + MAX_OCTETS];
    PyObject *stream;
    Py_ssize_t at;
    size_t size = 0, added;
    int most, hits = 0;
    Table table = {.is_stream = 1};
    if (!PyArg_ParseTuple(arguments, "O&Snid:answer", read_table, &table, &stream, &at, &most,
                          &table.now))
        return NULL;
    unsigned char *start = (unsigned char *)PyBytes_AS_STRING(stream);
    for (; hits < most && size < ROOM && at >= 0 && PyBytes_GET_SIZE(stream) - at >= 2; hits++) {
        Py_ssize_t length = start[at] << 8 | start[at + 1];
        if (length > PyBytes_GET_SIZE(stream) - at - 2)
            break;
        added = write_frame(&table, start + at + 2, (size_t)length, frames + size);
        if (!added)
            break;
        size += added;
        at += 2 + length;
    }
    if (PyErr_Occurred())
        return NULL;
    return Py_BuildValue("(y#ni)", frames, (Py_ssize_t)size, at, hits);
}

/* Write the address of a client in the form of Python's sockets; return its octets, 0 on an error. */
static socklen_t write_address(PyObject *client, struct sockaddr_storage *address)
{
    const char *host;
    int port;
    unsigned flow = 0, scope = 0;
    struct sockaddr_in *four = (struct sockaddr_in *)address;
    struct sockaddr_in6 *six = (struct sockaddr_in6 *)address;
    if (!PyArg_ParseTuple(client, "si|II:send", &host, &port, &flow, &scope))
        return 0;
    memset(address, 0, sizeof *six);
    if (inet_pton(AF_INET, host, &four->sin_addr) == 1) {
        four->sin_family = AF_INET;
        four->sin_port = htons((unsigned short)port);
        return sizeof *four;
    }
    if (inet_pton(AF_INET6, host, &six->sin6_addr) != 1) {
        PyErr_SetString(PyExc_ValueError, "the host of a client is no address");
        return 0;
    }
    six->sin6_family = AF_INET6;
    six->sin6_port = htons((unsigned short)port);
    six->sin6_flowinfo = htonl(flow);
    six->sin6_scope_id = scope;
    return sizeof *six;
}

/* send(fd, replies): each is (octets, client, control message); how many could not be sent. */
static PyObject *send_replies(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    int fd, unsent = 0;
    PyObject *list, *octets_of_reply, *client;
    const char *source;
    Py_ssize_t source_octets;
    if (!PyArg_ParseTuple(arguments, "iO!:send", &fd, &PyList_Type, &list))
        return NULL;
    for (Py_ssize_t done = 0; done < PyList_GET_SIZE(list);) {
        int count = 0;
        for (; count < BATCH && done < PyList_GET_SIZE(list); count++, done++) {
            struct msghdr *reply = &replies[count].msg_hdr;
            PyObject *one = PyList_GET_ITEM(list, done);
            if (!PyTuple_Check(one)) {
                PyErr_SetString(PyExc_TypeError, "a reply is no tuple");
                return NULL;
            }
            if (!PyArg_ParseTuple(one, "SO!y#:send", &octets_of_reply, &PyTuple_Type, &client,
                                  &source, &source_octets))
                return NULL;
            if (source_octets > (Py_ssize_t)sizeof clients[count].source) {
                PyErr_SetString(PyExc_ValueError, "the control message is too long");
                return NULL;
            }
            reply->msg_name = &clients[count].address;
            reply->msg_namelen = write_address(client, &clients[count].address);
            if (!reply->msg_namelen)
                return NULL;
            memcpy(&clients[count].source, source, (size_t)source_octets);
            reply->msg_control = source_octets ? &clients[count].source : NULL;
            reply->msg_controllen = (size_t)source_octets;
            pieces[count][0] = piece_of(octets_of_reply);
            reply->msg_iovlen = 1;
        }
        unsent += send_all(fd, count);
    }
    return PyLong_FromLong(unsent);
}

/* siphash(key, octets) of wire/siphash.py. */
static PyObject *hash(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    const unsigned char *key, *message;
    Py_ssize_t key_octets, length;
    unsigned char found[8];
    if (!PyArg_ParseTuple(arguments, "y#y#:siphash", &key, &key_octets, &message, &length))
        return NULL;
    if (key_octets != SIPHASH_KEY) {
        PyErr_SetString(PyExc_ValueError, "a key has 16 octets");
        return NULL;
    }
    uint64_t number = siphash(key, message, (size_t)length);
    for (size_t i = 0; i < sizeof found; i++, number >>= 8)
        found[i] = (unsigned char)number;
    return PyBytes_FromStringAndSize((const char *)found, sizeof found);
}

static PyMethodDef methods[] = {
    {"siphash", hash, METH_VARARGS, "Return the keyed hash of octets."},
    {"drain", drain, METH_VARARGS, "Answer a batch of queries; return hits, unsent, left."},
    {"send", send_replies, METH_VARARGS, "Send replies; return how many could not be."},
    {"wait", wait_for, METH_VARARGS, "Wait for what is for Python; return the descriptors."},
    {"answer", answer, METH_VARARGS, "Answer the hits of a stream; return frames, end, hits."},
    {"open", relay_open, METH_NOARGS, "Return what is readable when there is something to collect."},
    {"collect", relay_collect, METH_VARARGS, "Pass on replies; return what is handed over."},
    {"expire", relay_expire, METH_VARARGS, "Hand over what has waited for too long."},
    {NULL, NULL, 0, NULL},
};
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_drain", NULL, -1, methods,
                                        NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__drain(void)
{
    for (int i = 0; i < BATCH; i++) {
        rooms[i][0] = (struct iovec){octets[i], OCTETS};
        rooms[i][1] = (struct iovec){more[i], MORE};
        queries[i].msg_hdr.msg_iov = rooms[i];
        queries[i].msg_hdr.msg_iovlen = 2;
        queries[i].msg_hdr.msg_name = &clients[i].address;
        queries[i].msg_hdr.msg_namelen = sizeof clients[i].address;
        queries[i].msg_hdr.msg_control = &clients[i].source;
        queries[i].msg_hdr.msg_controllen = sizeof clients[i].source;
        replies[i].msg_hdr.msg_iov = pieces[i];
        replies[i].msg_hdr.msg_iovlen = PIECES;
    }
    PyObject *module = PyType_Ready(&relay_lane) || PyType_Ready(&limit_buckets)
                           ? NULL
                           : PyModule_Create(&definition);
    if (module && PyModule_AddObjectRef(module, "Lane", (PyObject *)&relay_lane))
        Py_CLEAR(module);
    if (module && PyModule_AddObjectRef(module, "Buckets", (PyObject *)&limit_buckets))
        Py_CLEAR(module);
    return module;
}
