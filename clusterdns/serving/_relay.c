/* Forwards plain queries to an upstream server and returns the replies, without Python.
 *
 * The plugin chain is the specification; relay.py decides which queries take this path. Plain ones do,
 * over UDP: of any type that nothing but its records' form has to be known of, with DO and CD, and
 * their replies, with records in all sections, with denials and failures. All else - no reply, TC,
 * FORMERR, types with rare names in RDATA, one more client with the same question - is handed over to
 * Python.
 *
 * Its question is sent on, with an OPT of our own (exchange.Asked), another ID, and from a socket
 * and so a port of its own (RFC 5452). A reply is read and written again as the chain does it
 * (_reply.c), to the same octets, with the TTL that `cache` says and its addresses shuffled if
 * `loadbalance` is there, and kept as octets until it is asked for again.
 */
#include "_relay.h"
#include "_addresses.h"
#include "_limit.h"
#include "_reply.h"
#include "_sample.h"
#include <errno.h>
#include <netinet/in.h>
#include <structmember.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <unistd.h>

enum {
    MAX_OUT = 1024, BATCH = 64, MIN_PORT = 1024, PORT_TRIES = 3, ADDRESS = 28,
    MAX_QUERY = HEADER + MAX_NAME + 4 + OPT, MAX_GATHERED = 8, OPT_DO = 0x8000,
    MAX_TOLD = 4096, /* records for observers: a few megabytes with the replies */
    BRIEF_TTL = 5, /* seconds, rules.MIN_TTL_S */
    NOBODY = 65535
};
enum policy { SEQUENTIAL, ROUND_ROBIN, RANDOM };
enum { SUCCESSES = 1, DENIALS = 2, ERRORS = 4 }; /* classes of `log`: route.CLASSES */

/* The lane of one zone of a server block: its servers, and how its replies are kept; see relay.py. */
typedef struct {
    PyObject_HEAD
    PyObject *known;     /* tuple of dicts, question -> second it is known until, or (that, ...) */
    PyObject *under_way; /* dict, question -> flags as sent; True: Python wants its reply; or a flight */
    PyObject *targets;   /* list of octets, each a struct target */
    PyObject *success, *denial; /* dict for what is kept, or None */
    PyObject *counts;    /* dict, octets of a struct count -> (replies, seconds) */
    PyObject *held;      /* tuple of pairs of dicts: names for Python, and those right above such */
    PyObject *addresses; /* tuple of dicts by address: their PTR questions are for Python; or None */
    double patience;     /* seconds a reply is waited for */
    double stale;        /* seconds that a kept reply may be used after its end */
    int number, policy, most, busy;
    PyObject *left; /* octets: types that are for Python, two octets each; or None */
    unsigned turn; /* of round_robin: goes round by itself */
    unsigned success_least, success_most, denial_least, denial_most, failure; /* TTLs */
    Py_ssize_t success_octets, denial_octets; /* kept since Python last looked */
    int most_octets;  /* of a reply, whatever size an OPT names */
    int own_octets;   /* of a reply to us, as the OPT of our queries says */
    PyObject *guarded; /* tuple of folded zones: replies with a name in one are for Python; or None */
    PyObject *starts; /* octets: names that begin with them are for Python; or None */
    PyObject *limits; /* buckets that a query counts in, or None */
    PyObject *sampler; /* of replies that are looked at, or None */
    PyObject *told;   /* list of records for observers, shared by lanes, or None */
    int wants;        /* classes of the replies that observers are told of */
    int many, untold; /* records until Python shall report them; those there was no room for */
    char tells_replies, tells_exchanges; /* whether observers want octets, and those of servers */
    char is_cached, shuffles, is_minimal;
    char refuses; /* whether to refuse queries without room here, or leave them to Python */
} Lane;

struct target {
    unsigned char number[2], unused[2], to[ADDRESS], from[ADDRESS]; /* sockaddr_in or _in6 */
};

/* A query under way. */
struct out {
    Lane *lane; /* NULL: none */
    PyObject *question;
    double began;
    struct client client;
    int sock, listener, next_free, error;
    unsigned short ident, target, length, limit, asked; /* asked: octets of the question */
    char is_mismatched;              /* a datagram had our ID and another question */
    unsigned char packet[MAX_QUERY]; /* as received */
};

/* The key of a count: its octets are compared, so it has no gaps. */
struct count {
    int listener;
    unsigned short lane, target, type, query, reply; /* octets: without OPT, uncompressed */
    unsigned char rcode, has_opt, time, has_do;
};

static struct out outs[MAX_OUT];
static struct out *first_free, *unsent[BATCH];
static int unsent_count;
static int poll_fd = -1;
static int gathered; /* replies kept since Python last checked the bounds */
static int is_due;   /* whether Python has to see to the records for observers */
static unsigned char reply[MAX_OCTETS + OPT], made[ROOM + OPT];

/* A random number; none is taken before a worker is forked. */
static unsigned short random16(void)
{
    static unsigned short numbers[128]; /* 256 octets are never cut short: getrandom(2) */
    static int left;
    if (!left) {
        while (getrandom(numbers, sizeof numbers, 0) != (ssize_t)sizeof numbers)
            ;
        left = sizeof numbers / sizeof *numbers;
    }
    return numbers[--left];
}

/* Add one, and its time, to the count of a key. */
static void count(PyObject *counts, const void *octets, size_t size, double seconds)
{
    PyObject *key = PyBytes_FromStringAndSize(octets, (Py_ssize_t)size), *after = NULL;
    PyObject *before = key ? PyDict_GetItemWithError(counts, key) : NULL;
    long times = 0;
    double spent = 0;
    if (!PyErr_Occurred() && (!before || PyArg_ParseTuple(before, "ld", &times, &spent)))
        after = Py_BuildValue("(ld)", times + 1, spent + seconds);
    if (!after || PyDict_SetItem(counts, key, after))
        PyErr_Clear();
    Py_XDECREF(after);
    Py_XDECREF(key);
}

/* ---- out: the query */

/* Whether a type may be relayed: HINFO questions are `loop`'s, others are for more than one reply. */
static int is_plain_type(unsigned type)
{
    enum { HINFO = 13, FIRST_META = 128, LAST_META = 255 };
    return type && type != HINFO && type != TYPE_OPT && (type < FIRST_META || type > LAST_META);
}

/* Write a question with its name in lower case; false if it is invalid, or its type is not plain. */
static int fold_question(unsigned char *to, const unsigned char *from, size_t length)
{
    size_t at = 0, last = length - 4;
    if (length < 5 || length > MAX_NAME + 4)
        return 0;
    while (at < last && from[at]) {
        if (from[at] > MAX_LABEL || at + 1u + from[at] > last)
            return 0;
        if (memchr(from + at + 1, '.', from[at])) /* as text it could be taken for two labels */
            return 0;
        at += 1u + from[at];
    }
    fold(to, from, last);
    memcpy(to + last, from + last, 4);
    return at + 1 == last && is_plain_type(number16(from + last)) && number16(from + last + 2) == 1;
}

/* The payload size of a client's OPT; 0 if it has options, or other flags than DO. */
static unsigned short limit_of(const unsigned char *opt)
{
    unsigned short size = number16(opt + 3);
    if (memcmp(opt, "\0\0\x29", 3) || opt[5] || opt[6] || number16(opt + 7) & ~OPT_DO || number16(opt + 9))
        return 0;
    return size > LEAST_LIMIT ? size > MAX_UDP ? MAX_UDP : size : LEAST_LIMIT;
}

/* Whether a folded question is left to Python, by its type or the start of its name; each NULL or octets. */
static int is_left(PyObject *types, PyObject *starts, const unsigned char *question, size_t length)
{
    for (Py_ssize_t i = 0; types && PyBytes_Check(types) && i + 1 < PyBytes_GET_SIZE(types); i += 2)
        if (!memcmp(PyBytes_AS_STRING(types) + i, question + length - 4, 2))
            return 1;
    return starts && PyBytes_Check(starts) && PyBytes_GET_SIZE(starts) &&
           (size_t)PyBytes_GET_SIZE(starts) < length &&
           !memcmp(question, PyBytes_AS_STRING(starts), (size_t)PyBytes_GET_SIZE(starts));
}

/* The lane for a folded question in a reverse zone, borrowed: the first item of a Part of _drain.pyi. The label right
 * below the zone is at `left`. NULL for a name that may exist, for other questions, and at the zone itself. */
static PyObject *outside_part(PyObject *part, const unsigned char *question, size_t length, size_t left,
                              size_t at)
{
    enum { LANE, THERE, SPARED, TYPES, FIELDS };
    if (!at || PyTuple_GET_SIZE(part) != FIELDS || !is_addresses(PyTuple_GET_ITEM(part, THERE)))
        return NULL;
    if (is_left(PyTuple_GET_ITEM(part, TYPES), PyTuple_GET_ITEM(part, SPARED), question, length))
        return NULL;
    if (has_address(PyTuple_GET_ITEM(part, THERE), question + left, question, length - 4))
        return NULL;
    return PyTuple_GET_ITEM(part, LANE);
}

/* The value of the longest zone that the name of a folded question lies in, borrowed; NULL for none. */
static PyObject *zone_of(PyObject *zones, const unsigned char *question, size_t length)
{
    for (size_t at = 0, left = 0;; left = at, at += 1u + question[at]) {
        PyObject *found = look_up(zones, question + at, length - 4 - at);
        if (found && PyTuple_Check(found))
            return outside_part(found, question, length, left, at);
        if (found || !question[at])
            return found;
    }
}

/* The lane of that zone, borrowed; NULL for none. DS records are in the zone above, so a name in two
 * zones other than the root is left to Python for them. */
static Lane *lane_of(PyObject *zones, const unsigned char *question, size_t length)
{
    enum { DS = 43 };
    PyObject *found = zone_of(zones, question, length);
    int count = 0, is_ds = number16(question + length - 4) == DS;
    for (size_t at = 0; is_ds && question[at]; at += 1u + question[at])
        count += look_up(zones, question + at, length - 4 - at) != NULL;
    return count < 2 && found && PyObject_TypeCheck(found, &relay_lane) ? (Lane *)found : NULL;
}

/* The buckets of an object that takes queries, borrowed; NULL for none. */
static PyObject *limits_of(PyObject *found)
{
    if (found && PyObject_TypeCheck(found, &relay_lane))
        found = ((Lane *)found)->limits;
    return found && PyObject_TypeCheck(found, &limit_buckets) ? found : NULL;
}

/* Whether a kept reply may still be used; an invalid time is left to Python. */
static int is_usable(PyObject *until, double now)
{
    if (PyTuple_Check(until) && PyTuple_GET_SIZE(until))
        until = PyTuple_GET_ITEM(until, 0);
    return !PyFloat_Check(until) || PyFloat_AS_DOUBLE(until) > now;
}

/* Whether Python knows the reply to a question, or has it under way. */
static int is_known(const Lane *lane, PyObject *question, double now)
{
    if (PyDict_GetItemWithError(lane->under_way, question))
        return 1;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(lane->known); i++) {
        PyObject *kept = PyTuple_GET_ITEM(lane->known, i);
        PyObject *until = PyDict_Check(kept) ? PyDict_GetItemWithError(kept, question) : NULL;
        if (until && is_usable(until, now))
            return 1;
    }
    return PyErr_Occurred() != NULL;
}

/* Whether the name of a folded question is one that the lane leaves to Python, one label below such a
 * name, or may be that of an address that has a name. */
static int is_held(const Lane *lane, const unsigned char *question, size_t length)
{
    size_t above = question[0] ? 1u + question[0] : 0, name = length - 4;
    PyObject *held = lane->held, *addresses = lane->addresses;
    for (Py_ssize_t i = 0; held && PyTuple_Check(held) && i < PyTuple_GET_SIZE(held); i++) {
        size_t skipped = i % 2 ? above : 0;
        PyObject *some = PyTuple_GET_ITEM(held, i);
        if (PyDict_Check(some) && PyDict_GET_SIZE(some) &&
            look_up(some, question + skipped, name - skipped))
            return 1;
    }
    return number16(question + name) == PTR && addresses && PyTuple_Check(addresses) &&
           is_address_in(addresses, question, name);
}

/* The server to ask, borrowed from the lane; NULL if none is up. */
static const struct target *target_of(Lane *lane)
{
    Py_ssize_t count = PyList_GET_SIZE(lane->targets), chosen = 0;
    if (!count)
        return NULL;
    if (lane->policy == RANDOM)
        chosen = random16() % count;
    else if (lane->policy == ROUND_ROBIN)
        chosen = ++lane->turn % count;
    PyObject *octets = PyList_GET_ITEM(lane->targets, chosen);
    if (!PyBytes_Check(octets) || PyBytes_GET_SIZE(octets) != sizeof(struct target))
        return NULL;
    return (const struct target *)PyBytes_AS_STRING(octets);
}

/* Bind a socket to a port at random, below half a million tries of a forger's (RFC 6056). */
static int bind_somewhere(int sock, struct sockaddr_in6 *from, socklen_t size)
{
    for (int i = 0; i <= PORT_TRIES; i++) {
        unsigned port = 0; /* the last time the kernel chooses */
        while (i < PORT_TRIES && port < MIN_PORT)
            port = random16();
        from->sin6_port = htons((unsigned short)port); /* at the same place in sockaddr_in */
        if (!bind(sock, (struct sockaddr *)from, size))
            return 1;
        if (errno != EADDRINUSE && errno != EACCES)
            return 0;
    }
    return 0;
}

/* A socket connected to a server, from a port of its own; -1 if that fails. */
static int connected(const struct target *target)
{
    struct sockaddr_in6 to, from;
    memcpy(&to, target->to, sizeof to);
    memcpy(&from, target->from, sizeof from);
    int family = ((struct sockaddr *)&to)->sa_family;
    socklen_t size = family == AF_INET6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in);
    int sock = socket(family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), on = 1;
    if (sock < 0)
        return -1;
    if (family == AF_INET6) /* every ICMP error ends the wait, see upstream.py */
        setsockopt(sock, IPPROTO_IPV6, IPV6_RECVERR, &on, sizeof on);
    else
        setsockopt(sock, IPPROTO_IP, IP_RECVERR, &on, sizeof on);
    if (bind_somewhere(sock, &from, size) && !connect(sock, (struct sockaddr *)&to, size))
        return sock;
    close(sock);
    return -1;
}

/* Queue a query to send with its batch, and wait for its reply; false on an error. */
static int prepare(struct out *out)
{
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = (unsigned)(out - outs)};
    unsigned char flags[] = {out->packet[2], out->packet[3] | AD};
    PyObject *sent = PyBytes_FromStringAndSize((char *)flags, sizeof flags);
    int failed = !sent || PyDict_SetItem(out->lane->under_way, out->question, sent) ||
                 epoll_ctl(poll_fd, EPOLL_CTL_ADD, out->sock, &event);
    Py_XDECREF(sent);
    if (!failed)
        unsent[unsent_count++] = out;
    return !failed;
}

/* The flags of a client's OPT: DO or none. */
static unsigned flags_of(const struct out *out)
{
    return out->length > HEADER + out->asked ? number16(out->packet + out->length - 4) : 0;
}

/* In sequence: a server that is still awake from the last one need not be woken. */
void relay_send(void)
{
    static const unsigned char bare_opt[OPT] = {0, 0, TYPE_OPT};
    unsigned char packet[MAX_QUERY];
    for (int i = 0; i < unsent_count; i++) {
        struct out *out = unsent[i];
        size_t end = HEADER + out->asked;
        memcpy(packet, out->packet, end);
        write16(packet, out->ident);
        packet[3] |= AD; /* the server shall say whether it has validated */
        write16(packet + 10, 1);
        memcpy(packet + end, bare_opt, OPT);
        write16(packet + end + 3, (unsigned)out->lane->own_octets);
        write16(packet + end + 7, flags_of(out));
        if (send(out->sock, packet, end + OPT, 0) < 0)
            out->error = errno; /* handed over soon */
    }
    unsent_count = 0;
}

/* Free the resources of a query. */
static void release(struct out *out)
{
    Lane *lane = out->lane;
    if (PyDict_DelItem(lane->under_way, out->question))
        PyErr_Clear();
    close(out->sock);
    Py_CLEAR(out->question);
    out->lane = NULL;
    lane->busy--;
    Py_DECREF(lane);
    out->next_free = first_free ? (int)(first_free - outs) : -1;
    first_free = out;
}

/* Refuse a query for lack of room: only its header changes. */
static void refuse(const Lane *lane, int fd, const unsigned char *packet, size_t length,
                   size_t asked, const struct client *client)
{
    unsigned char refusal[MAX_QUERY];
    struct count counted;
    memcpy(refusal, packet, length);
    refusal[2] = 0x80 | (packet[2] & 0x01);
    refusal[3] = REFUSED | (packet[3] & CD);
    memset(&counted, 0, sizeof counted);
    counted.listener = fd;
    counted.lane = (unsigned short)lane->number;
    counted.target = NOBODY;
    counted.type = number16(packet + HEADER + asked - 4);
    counted.query = (unsigned short)(HEADER + asked);
    counted.rcode = REFUSED;
    counted.has_opt = length > HEADER + asked;
    counted.has_do = counted.has_opt && number16(packet + length - 4);
    count(lane->counts, &counted, sizeof counted, 0);
    struct client to = *client;
    send_to(fd, &to, refusal, length);
}

/* The octets of the question of a query, with its name folded; 0 if it is none or malformed. */
static size_t read_question(unsigned char *to, const unsigned char *packet, size_t length)
{
    size_t at = HEADER;
    if (length < HEADER + 5 || packet[2] & 0xF8 || number16(packet + 4) != 1)
        return 0;
    while (at < length && packet[at] && packet[at] <= MAX_LABEL)
        at += 1u + packet[at];
    if (at + 5 > length || packet[at] || at + 1 - HEADER > MAX_NAME)
        return 0;
    fold(to, packet + HEADER, at + 1 - HEADER);
    memcpy(to + at + 1 - HEADER, packet + at + 1, 4);
    return at + 5 - HEADER;
}

/* Send an empty reply with TC, and an OPT like the client's: Listener._refuse. */
static void send_cut(int fd, const unsigned char *packet, size_t length, size_t asked,
                     const struct client *client)
{
    unsigned char cut[MAX_QUERY] = {0};
    const unsigned char *opt = packet + HEADER + asked;
    struct client to = *client;
    size_t end = HEADER + asked;
    memcpy(cut, packet, end);
    cut[2] = (unsigned char)(0x80 | TC | (packet[2] & 0x01));
    cut[3] = packet[3] & CD;
    memset(cut + 6, 0, 6);
    if (number16(packet + 10) && length >= end + OPT && !memcmp(opt, "\0\0\x29", 3)) {
        memcpy(cut + end, opt, 5);
        cut[end + 7] = opt[7];
        cut[11] = 1;
        end += OPT;
    }
    send_to(fd, &to, cut, end);
}

int relay_refuses(PyObject *zones, int fd, const unsigned char *packet, size_t length,
                  const struct client *client, double now)
{
    unsigned char question[MAX_NAME + 4];
    size_t asked = read_question(question, packet, length);
    PyObject *limits = asked ? limits_of(zone_of(zones, question, asked)) : NULL;
    if (!limits)
        return 0;
    enum verdict verdict = limit_judge(limits, &client->address, now, 0);
    if (verdict == TRUNCATE)
        send_cut(fd, packet, length, asked, client);
    return verdict != ANSWER;
}

int relay_takes(PyObject *zones, int fd, const unsigned char *packet, size_t length,
                const struct client *client, double now)
{
    unsigned char question[MAX_NAME + 5], bounded[MAX_QUERY];
    int form = form_of(packet, length);
    size_t tail = form >= 0 && form & FORM_OPT ? OPT : 0, asked = length - HEADER - tail;
    if (!zones || !first_free || unsent_count == BATCH)
        return 0;
    if (form < 0 || length < HEADER + 5 + tail || length > MAX_QUERY)
        return 0;
    unsigned short limit = tail ? limit_of(packet + length - OPT) : LEAST_LIMIT;
    if (!limit || !fold_question(question, packet + HEADER, asked))
        return 0;
    Lane *lane = lane_of(zones, question, asked);
    if (!lane || !lane->under_way || !lane->known || !lane->targets || !lane->counts)
        return 0;
    if (is_left(lane->left, lane->starts, question, asked) || is_held(lane, question, asked))
        return 0;
    if (tail && number16(packet + length - OPT + 3) > lane->most_octets) {
        memcpy(bounded, packet, length);
        write16(bounded + length - OPT + 3, (unsigned)lane->most_octets);
        packet = bounded;
        limit = limit_of(packet + length - OPT);
    }
    int variant = (tail && packet[length - 4]) | (form & FORM_CD) >> 2; /* kept.key_of */
    question[asked] = (unsigned char)variant;
    PyObject *key = PyBytes_FromStringAndSize((char *)question, (Py_ssize_t)asked + !!variant);
    int is_new = key && !is_known(lane, key, now), has_room = lane->busy < lane->most;
    const struct target *target = is_new && has_room ? target_of(lane) : NULL;
    int sock = target ? connected(target) : -1;
    if (sock < 0) {
        int is_refused = is_new && !has_room && lane->refuses && !(lane->wants & ERRORS);
        Py_XDECREF(key);
        PyErr_Clear();
        if (is_refused)
            refuse(lane, fd, packet, length, asked, client);
        return is_refused;
    }
    struct out *out = first_free;
    first_free = out->next_free < 0 ? NULL : outs + out->next_free;
    *out = (struct out){.lane = lane, .question = key, .began = now, .client = *client,
                        .sock = sock, .listener = fd, .ident = random16(),
                        .target = number16(target->number), .length = (unsigned short)length,
                        .limit = limit, .asked = (unsigned short)asked};
    memcpy(out->packet, packet, length);
    Py_INCREF(lane);
    lane->busy++;
    if (prepare(out)) {
        PyObject *limits = limits_of((PyObject *)lane);
        if (limits)
            limit_judge(limits, &client->address, now, 1);
        return 1;
    }
    release(out);
    PyErr_Clear();
    return 0;
}

/* ---- back: the reply */

/* Whether a reply without a question says that the server knows no OPT record: Exchange.is_refused_by. */
static int refuses_opt(size_t length)
{
    unsigned rcode = reply[3] & 15;
    return length == HEADER && reply[2] & 0x80 && (rcode == FORMERR || rcode == NOTIMP) &&
           !memcmp(reply + 4, "\0\0\0\0\0\0\0\0", 8);
}

/* Whether octets are a reply to our question; notes a reply with our ID and another question. */
static int is_reply_to(struct out *out, size_t length)
{
    if (length >= HEADER && number16(reply) == out->ident) {
        if (answers_question(reply, length, out->packet, out->asked) || refuses_opt(length))
            return 1;
        out->is_mismatched |= has_question(reply, length);
    }
    count(out->lane->counts, &out->target, sizeof out->target, 0);
    return 0;
}

static unsigned clamp(unsigned ttl, unsigned least, unsigned most)
{
    ttl = ttl < least ? least : ttl;
    return ttl > most ? most : ttl;
}

/* The TTL of all records, as `cache` says: rules.ttl_of. */
static unsigned ttl_of(const Lane *lane, const struct reply *found, enum outcome outcome)
{
    unsigned ttl = found->ttl;
    if (outcome == O_FAILURE)
        return lane->failure;
    if (outcome == O_NXDOMAIN || outcome == O_NODATA)
        return clamp(ttl < found->minimum ? ttl : found->minimum, lane->denial_least, lane->denial_most);
    return clamp(outcome == O_SUCCESS ? ttl : BRIEF_TTL, lane->success_least, lane->success_most);
}

/* Keep a reply as octets: (until, stored at, TTL, message without OPT). A failure is not used stale. */
static void keep(const struct out *out, const struct reply *found, enum outcome outcome, unsigned ttl,
                 double now)
{
    Lane *lane = out->lane;
    int is_success = outcome == O_SUCCESS || outcome == O_DELEGATION;
    PyObject *kept = is_success ? lane->success : lane->denial;
    double stale = outcome == O_FAILURE ? 0 : lane->stale;
    if (!ttl || outcome == O_OTHER || !kept || !PyDict_Check(kept))
        return;
    for (int i = 0; i < SECTIONS; i++)
        write16(reply + 6 + 2 * i, (unsigned)found->counts[i]);
    for (int i = 0; i < found->records; i++) {
        write16(reply + found->record[i].head + 4, ttl >> 16);
        write16(reply + found->record[i].head + 6, ttl);
    }
    PyObject *value = Py_BuildValue("(ddIy#)", now + ttl + stale, now, ttl, reply,
                                    (Py_ssize_t)found->end);
    if (!value || PyDict_SetItem(kept, out->question, value))
        PyErr_Clear();
    Py_XDECREF(value);
    *(is_success ? &lane->success_octets : &lane->denial_octets) += (Py_ssize_t)found->end;
}

/* The place of a record in a section that `loadbalance` shuffles; addresses and MX records move. */
static int part_of(unsigned type)
{
    return type == CNAME ? 0 : type == A || type == AAAA ? 2 : type == MX ? 3 : 1;
}

/* Order the records as `loadbalance` does: in parts, the last two shuffled. */
static void shuffle(const struct reply *found, short *order)
{
    enum { PARTS = 4, FIRST_MOVABLE = 2 };
    int most = 0, movable, start = 0;
    for (int section = 0; section < SECTIONS; start += found->counts[section++]) {
        movable = 0;
        for (int i = start; i < start + found->counts[section]; i++)
            movable += part_of(found->record[i].type) >= FIRST_MOVABLE;
        most = movable > most ? movable : most;
    }
    if (found->rcode || most < 2)
        return;
    start = 0;
    for (int section = 0, at = 0; section < SECTIONS; start += found->counts[section++]) {
        for (int part = 0; part < PARTS; part++) {
            int first = at;
            for (int i = start; i < start + found->counts[section]; i++)
                if (part_of(found->record[i].type) == part)
                    order[at++] = (short)i;
            for (int left = at - first; part >= FIRST_MOVABLE && left > 1; left--) {
                int chosen = first + random16() % left;
                short held = order[first + left - 1];
                order[first + left - 1] = order[chosen];
                order[chosen] = held;
            }
        }
    }
}

static void count_reply(const struct out *out, const struct reply *found, double seconds)
{
    struct count counted;
    memset(&counted, 0, sizeof counted);
    counted.listener = out->listener;
    counted.lane = (unsigned short)out->lane->number;
    counted.target = out->target;
    counted.type = number16(out->packet + HEADER + out->asked - 4);
    counted.query = (unsigned short)(HEADER + out->asked);
    counted.reply = (unsigned short)found->uncompressed;
    counted.rcode = (unsigned char)found->rcode;
    counted.has_opt = out->length > HEADER + out->asked;
    counted.has_do = flags_of(out) != 0;
    counted.time = time_bucket(seconds);
    count(out->lane->counts, &counted, sizeof counted, seconds);
}

/* The class of a reply in `log`: Outcome.log_class. */
static int class_of(const struct reply *found)
{
    if (found->rcode == NXDOMAIN && !found->counts[0])
        return DENIALS;
    if (found->rcode)
        return ERRORS;
    return found->has_soa && !found->counts[0] ? DENIALS : SUCCESSES;
}

/* The address of the socket of a query, in the form of Python's sockets. */
static PyObject *address_of(const struct out *out)
{
    struct client ours = {.source_octets = 0};
    socklen_t size = sizeof ours.address;
    if (getsockname(out->sock, (struct sockaddr *)&ours.address, &size))
        return Py_NewRef(Py_None);
    return client_of(&ours);
}

/* Append a record for the observers of a lane: Relayed in route.py, behind the lane. */
static void tell(const struct out *out, const struct reply *found, double now, unsigned flags,
                 size_t length, size_t received)
{
    Lane *lane = out->lane;
    if (!lane->told || !PyList_Check(lane->told) || !(class_of(found) & lane->wants))
        return;
    if (PyList_GET_SIZE(lane->told) >= MAX_TOLD) {
        lane->untold++;
        return;
    }
    PyObject *told = Py_BuildValue(
        "(Oy#NiddiHiHy#y#N)", lane, out->packet, (Py_ssize_t)out->length, client_of(&out->client),
        out->listener, out->began, now - out->began, class_of(found), flags,
        (int)found->uncompressed, out->target, lane->tells_replies ? made : NULL,
        (Py_ssize_t)length, lane->tells_exchanges ? reply : NULL, (Py_ssize_t)received,
        lane->tells_exchanges ? address_of(out) : Py_NewRef(Py_None));
    if (!told || PyList_Append(lane->told, told))
        PyErr_Clear();
    Py_XDECREF(told);
    Py_ssize_t count = PyList_GET_SIZE(lane->told);
    is_due |= count == 1 || count == lane->many; /* to set a timer, or to report them */
}

/* Keep a query with its reply if it is looked at. */
static void look_at(const struct out *out, size_t length, double now)
{
    PyObject *sampler = out->lane->sampler;
    if (!is_sampler(sampler))
        return;
    int stands_for = sample_draw(sampler, kind_of(made[3] & 15, now - out->began));
    if (stands_for)
        sample_keep(sampler, stands_for, out->packet, out->length, &out->client, now - out->began,
                    out->began, PyBytes_FromStringAndSize((const char *)made, (Py_ssize_t)length));
}

/* Whether a reply may have a name in one of some zones; NULL or a tuple. */
static int is_guarded(PyObject *zones, const struct reply *found)
{
    for (Py_ssize_t i = 0; zones && PyTuple_Check(zones) && i < PyTuple_GET_SIZE(zones); i++) {
        PyObject *zone = PyTuple_GET_ITEM(zones, i);
        if (PyBytes_Check(zone) && may_name(found, (const unsigned char *)PyBytes_AS_STRING(zone),
                                            (size_t)PyBytes_GET_SIZE(zone)))
            return 1;
    }
    return 0;
}

/* Send a client its reply; false if that is left to Python. */
static int pass_on(struct out *out, size_t length, double now)
{
    static struct reply found;
    short order[MAX_RECORDS];
    const Lane *lane = out->lane;
    int counts[SECTIONS], is_complete, is_cut;
    size_t tail = out->length - HEADER - out->asked;
    if (!read_reply(&found, reply, length, out->asked, lane->is_cached || !tail, flags_of(out),
                    lane->is_minimal) ||
        is_guarded(lane->guarded, &found))
        return 0;
    enum outcome outcome = outcome_of(&found, &is_complete);
    if (lane->is_cached && is_complete < 0)
        return 0;
    unsigned ttl = ttl_of(lane, &found, outcome);
    for (short i = 0; i < found.records; i++)
        order[i] = i;
    if (lane->shuffles)
        shuffle(&found, order);
    found.question = out->packet + HEADER;
    size_t end = write_records(made, &found, order, lane->is_cached ? &ttl : NULL, out->limit - tail,
                               counts, &is_cut);
    if (!end)
        return 0;
    memcpy(made, out->packet, 2);
    made[2] = reply[2];
    made[3] = reply[3];
    if (!(out->packet[3] & AD || flags_of(out)))
        made[3] &= (unsigned char)~AD;
    unsigned flags = number16(made + 2);
    made[2] |= is_cut ? TC : 0;
    write16(made + 4, 1);
    for (int i = 0; i < SECTIONS; i++)
        write16(made + 6 + 2 * i, (unsigned)counts[i] + (i == SECTIONS - 1 && tail));
    memcpy(made + end, out->packet + out->length - tail, tail);
    send_to(out->listener, &out->client, made, end + tail);
    tell(out, &found, now, flags, end + tail, length); /* before `keep` changes the reply */
    look_at(out, end + tail, now);
    if (lane->is_cached && is_complete)
        keep(out, &found, outcome, ttl, now);
    count_reply(out, &found, now - out->began);
    return 1;
}

/* Hand a query over to Python, with its result: (lane, query, client, control
 * message, listener, server, seconds, reply or None, error or -1 for replies to other questions only,
 * our address). */
static int hand_over(PyObject *left, struct out *out, double now, size_t length, int error)
{
    PyObject *told = Py_BuildValue(
        "(Oy#Ny#iHdy#iN)", out->lane, out->packet, (Py_ssize_t)out->length, client_of(&out->client),
        &out->client.source, (Py_ssize_t)out->client.source_octets, out->listener, out->target, now - out->began, length ? reply : NULL, (Py_ssize_t)length,
        error, out->lane->tells_exchanges ? address_of(out) : Py_NewRef(Py_None));
    PyObject *limits = limits_of((PyObject *)out->lane);
    if (limits) /* the chain counts it */
        limit_refund(limits, &out->client.address);
    release(out);
    int failed = !told || PyList_Append(left, told);
    Py_XDECREF(told);
    return failed ? -1 : 0;
}

/* Read a socket until the reply to its query; -1 on an error of Python's. */
static int read_socket(struct out *out, double now, PyObject *left)
{
    for (int i = 0; i < BATCH; i++) {
        ssize_t length = recv(out->sock, reply, MAX_OCTETS, MSG_DONTWAIT);
        if (length < 0 && (errno == EAGAIN || errno == EINTR))
            return 0;
        if (length < 0) /* an ICMP error, for example port unreachable */
            return hand_over(left, out, now, 0, errno);
        if (!is_reply_to(out, (size_t)length))
            continue;
        PyObject *wanted = PyDict_GetItemWithError(out->lane->under_way, out->question);
        if (wanted == Py_True || !pass_on(out, (size_t)length, now))
            return hand_over(left, out, now, (size_t)length, 0);
        release(out);
        return 0;
    }
    return 0;
}

int relay_gathers(PyObject *left, double now)
{
    struct epoll_event ready[BATCH];
    int count = poll_fd >= 0 ? epoll_wait(poll_fd, ready, BATCH, 0) : 0;
    for (int i = 0; i < count; i++) {
        struct out *out = &outs[ready[i].data.u32 % MAX_OUT];
        if (out->lane && read_socket(out, now, left))
            return -1;
    }
    return PyList_GET_SIZE(left) > 0 || is_due || ++gathered >= MAX_GATHERED;
}

/* collect(now): pass on the received replies; returns those handed over. */
PyObject *relay_collect(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    double now;
    PyObject *left = PyArg_ParseTuple(arguments, "d:collect", &now) ? PyList_New(0) : NULL;
    gathered = is_due = 0;
    if (left && relay_gathers(left, now) < 0)
        Py_CLEAR(left);
    return left;
}

/* expire(now): hand over queries that have expired or could not be sent. */
PyObject *relay_expire(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    double now;
    PyObject *left = PyArg_ParseTuple(arguments, "d:expire", &now) ? PyList_New(0) : NULL;
    for (int i = 0; left && i < MAX_OUT; i++) {
        struct out *out = &outs[i];
        int is_over = out->lane && (out->error || now - out->began >= out->lane->patience);
        int error = out->error ? out->error : out->is_mismatched ? -1 : ETIMEDOUT;
        if (is_over && hand_over(left, out, now, 0, error))
            Py_CLEAR(left);
    }
    return left;
}

/* open(): the descriptor that is readable when there is something to collect. */
PyObject *relay_open(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(arguments))
{
    if (poll_fd < 0) {
        poll_fd = epoll_create1(EPOLL_CLOEXEC);
        if (poll_fd < 0)
            return PyErr_SetFromErrno(PyExc_OSError);
        for (int i = 0; i < MAX_OUT; i++)
            outs[i].next_free = i + 1 < MAX_OUT ? i + 1 : -1;
        first_free = outs;
    }
    return PyLong_FromLong(poll_fd);
}

static void lane_dealloc(Lane *lane)
{
    Py_XDECREF(lane->known);
    Py_XDECREF(lane->under_way);
    Py_XDECREF(lane->targets);
    Py_XDECREF(lane->success);
    Py_XDECREF(lane->denial);
    Py_XDECREF(lane->counts);
    Py_XDECREF(lane->held);
    Py_XDECREF(lane->addresses);
    Py_XDECREF(lane->guarded);
    Py_XDECREF(lane->starts);
    Py_XDECREF(lane->limits);
    Py_XDECREF(lane->left);
    Py_XDECREF(lane->told);
    Py_XDECREF(lane->sampler);
    Py_TYPE(lane)->tp_free((PyObject *)lane);
}

static int lane_init(Lane *lane, PyObject *arguments, PyObject *Py_UNUSED(words))
{
    PyObject *known, *under_way, *targets, *counts;
    if (!PyArg_ParseTuple(arguments, "iO!O!O!O!:Lane", &lane->number, &PyTuple_Type, &known,
                          &PyDict_Type, &under_way, &PyList_Type, &targets, &PyDict_Type, &counts))
        return -1;
    Py_XSETREF(lane->known, Py_NewRef(known));
    Py_XSETREF(lane->under_way, Py_NewRef(under_way));
    Py_XSETREF(lane->targets, Py_NewRef(targets));
    Py_XSETREF(lane->counts, Py_NewRef(counts));
    lane->most_octets = 65535;
    lane->own_octets = LEAST_LIMIT;
    return 0;
}

#define FIELD(name, type, flags) {#name, type, offsetof(Lane, name), flags, NULL}
static PyMemberDef lane_members[] = {
    FIELD(number, T_INT, READONLY),
    FIELD(busy, T_INT, READONLY),
    FIELD(known, T_OBJECT, READONLY),
    FIELD(under_way, T_OBJECT, READONLY),
    FIELD(targets, T_OBJECT, READONLY),
    FIELD(counts, T_OBJECT, READONLY),
    FIELD(held, T_OBJECT, 0),
    FIELD(addresses, T_OBJECT, 0),
    FIELD(success, T_OBJECT, 0),
    FIELD(denial, T_OBJECT, 0),
    FIELD(patience, T_DOUBLE, 0),
    FIELD(stale, T_DOUBLE, 0),
    FIELD(policy, T_INT, 0),
    FIELD(most, T_INT, 0),
    FIELD(most_octets, T_INT, 0),
    FIELD(own_octets, T_INT, 0),
    FIELD(guarded, T_OBJECT, 0),
    FIELD(starts, T_OBJECT, 0),
    FIELD(limits, T_OBJECT, 0),
    FIELD(left, T_OBJECT, 0),
    FIELD(sampler, T_OBJECT, 0),
    FIELD(told, T_OBJECT, 0),
    FIELD(wants, T_INT, 0),
    FIELD(many, T_INT, 0),
    FIELD(untold, T_INT, 0),
    FIELD(tells_replies, T_BOOL, 0),
    FIELD(tells_exchanges, T_BOOL, 0),
    FIELD(success_least, T_UINT, 0),
    FIELD(success_most, T_UINT, 0),
    FIELD(denial_least, T_UINT, 0),
    FIELD(denial_most, T_UINT, 0),
    FIELD(failure, T_UINT, 0),
    FIELD(success_octets, T_PYSSIZET, 0),
    FIELD(denial_octets, T_PYSSIZET, 0),
    FIELD(is_minimal, T_BOOL, 0),
    FIELD(is_cached, T_BOOL, 0),
    FIELD(shuffles, T_BOOL, 0),
    FIELD(refuses, T_BOOL, 0),
    {NULL, 0, 0, 0, NULL},
};
#undef FIELD

PyTypeObject relay_lane = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "clusterdns.serving._drain.Lane",
    .tp_basicsize = sizeof(Lane),
    .tp_dealloc = (destructor)lane_dealloc,
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_doc = "Lane(number, known, under_way, targets, counts): where queries of a zone go.",
    .tp_members = lane_members,
    .tp_init = (initproc)lane_init,
    .tp_new = PyType_GenericNew,
};
