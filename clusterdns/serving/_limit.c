/* Rate limits by client, in memory that all workers share; chain/limits.py is the specification.
 *
 * Each client has an entry of three words: the keyed hash of its network, the second at which it will
 * have room for a whole burst again, and how many of its queries in a row were over the limit. An
 * entry has its place in one of WAYS; a new client takes the one that has been quiet for
 * longest. Workers do not wait for each other: if two write an entry at the same time, one query is
 * not counted.
 */
#include "_limit.h"
#include "_siphash.h"
#include <arpa/inet.h>
#include <structmember.h>

enum { WAYS = 4, MAX_NETWORKS = 64, LONGEST = 16 };

typedef struct {
    uint64_t client;
    double until;
    uint64_t over;
} Entry;

typedef struct {
    unsigned char octets[LONGEST];
    int length, bits; /* of an address in octets, of the network */
} Network;

typedef struct {
    PyObject_HEAD
    Py_buffer memory;
    size_t sets;
    unsigned char secret[SIPHASH_KEY];
    double interval, slack; /* seconds: of a query, and how far ahead of now a client may be */
    unsigned long slip;
    int bits4, bits6;
    int networks;
    Network exempt[MAX_NETWORKS];
    unsigned long long truncated, dropped;
} Buckets;

/* Clear the bits behind a prefix. */
static void mask(unsigned char *octets, int length, int bits)
{
    for (int i = 0; i < length; i++, bits -= 8) {
        if (bits <= 0)
            octets[i] = 0;
        else if (bits < 8)
            octets[i] &= (unsigned char)(0xFF << (8 - bits));
    }
}

static int is_exempt(const Buckets *buckets, const unsigned char *octets, int length)
{
    for (int i = 0; i < buckets->networks; i++) {
        const Network *network = &buckets->exempt[i];
        unsigned char own[LONGEST];
        if (network->length != length)
            continue;
        memcpy(own, octets, (size_t)length);
        mask(own, length, network->bits);
        if (!memcmp(own, network->octets, (size_t)length))
            return 1;
    }
    return 0;
}

/* The entry of a client; that of another one, or an empty one, if it has none. NULL: it is exempt. */
static Entry *entry_of(const Buckets *buckets, const struct sockaddr_storage *client, uint64_t *key)
{
    unsigned char octets[LONGEST];
    int length = octets_of_address(client, octets);
    if (is_exempt(buckets, octets, length))
        return NULL;
    mask(octets, length, length == 4 ? buckets->bits4 : buckets->bits6);
    *key = siphash(buckets->secret, octets, (size_t)length) | 1; /* 0: empty */
    Entry *set = (Entry *)buckets->memory.buf + *key / 2 % buckets->sets * WAYS, *quiet = set;
    for (Entry *entry = set; entry < set + WAYS; entry++) {
        if (entry->client == *key)
            return entry;
        if (entry->until < quiet->until)
            quiet = entry;
    }
    return quiet;
}

static enum verdict refuse(Buckets *buckets, Entry *entry)
{
    unsigned long long over = entry->over++;
    if (buckets->slip && over % buckets->slip == 0) {
        buckets->truncated++;
        return TRUNCATE;
    }
    buckets->dropped++;
    return STAY_SILENT;
}

enum verdict limit_judge(PyObject *object, const struct sockaddr_storage *client, double now,
                         int counts)
{
    Buckets *buckets = (Buckets *)object;
    uint64_t key;
    Entry *entry = entry_of(buckets, client, &key);
    if (!entry)
        return ANSWER;
    int is_known = entry->client == key;
    double until = is_known && entry->until > now ? entry->until : now;
    if (until - now > buckets->slack)
        return refuse(buckets, entry);
    if (counts)
        *entry = (Entry){key, until + buckets->interval, 0};
    return ANSWER;
}

void limit_refund(PyObject *object, const struct sockaddr_storage *client)
{
    const Buckets *buckets = (Buckets *)object;
    uint64_t key;
    Entry *entry = entry_of(buckets, client, &key);
    if (entry && entry->client == key)
        entry->until -= buckets->interval;
}

/* judge(host, now): of a query that counts. */
static PyObject *judge(PyObject *self, PyObject *arguments)
{
    const char *host;
    double now;
    struct sockaddr_storage client;
    struct sockaddr_in *four = (struct sockaddr_in *)&client;
    struct sockaddr_in6 *six = (struct sockaddr_in6 *)&client;
    if (!PyArg_ParseTuple(arguments, "sd:judge", &host, &now))
        return NULL;
    char plain[INET6_ADDRSTRLEN] = ""; /* without a zone */
    for (size_t i = 0; i + 1 < sizeof plain && host[i] && host[i] != '%'; i++)
        plain[i] = host[i];
    if (inet_pton(AF_INET, plain, &four->sin_addr) == 1)
        client.ss_family = AF_INET;
    else if (inet_pton(AF_INET6, plain, &six->sin6_addr) == 1)
        client.ss_family = AF_INET6;
    else
        return PyLong_FromLong(ANSWER); /* no address */
    return PyLong_FromLong(limit_judge(self, &client, now, 1));
}

static int read_networks(Buckets *buckets, PyObject *exempt)
{
    Py_ssize_t count = PyTuple_GET_SIZE(exempt);
    if (count > MAX_NETWORKS) {
        PyErr_SetString(PyExc_ValueError, "too many networks");
        return -1;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        const char *octets;
        Py_ssize_t length;
        Network *network = &buckets->exempt[i];
        if (!PyArg_ParseTuple(PyTuple_GET_ITEM(exempt, i), "y#i:Buckets", &octets, &length,
                              &network->bits))
            return -1;
        if (length != 4 && length != LONGEST) {
            PyErr_SetString(PyExc_ValueError, "no address");
            return -1;
        }
        network->length = (int)length;
        memcpy(network->octets, octets, (size_t)length);
    }
    buckets->networks = (int)count;
    return 0;
}

/* Buckets(memory, secret, interval, slack, slip, bits of IPv4, bits of IPv6, exempt networks) */
static int buckets_init(Buckets *buckets, PyObject *arguments, PyObject *Py_UNUSED(words))
{
    PyObject *memory, *exempt;
    const char *secret;
    Py_ssize_t octets;
    if (!PyArg_ParseTuple(arguments, "Oy#ddkiiO!:Buckets", &memory, &secret, &octets,
                          &buckets->interval, &buckets->slack, &buckets->slip, &buckets->bits4,
                          &buckets->bits6, &PyTuple_Type, &exempt))
        return -1;
    if (octets != SIPHASH_KEY || buckets->memory.obj) {
        PyErr_SetString(PyExc_ValueError, "a secret has 16 octets");
        return -1;
    }
    memcpy(buckets->secret, secret, SIPHASH_KEY);
    if (read_networks(buckets, exempt) || PyObject_GetBuffer(memory, &buckets->memory, PyBUF_WRITABLE))
        return -1;
    buckets->sets = (size_t)buckets->memory.len / sizeof(Entry) / WAYS;
    if (buckets->sets)
        return 0;
    PyErr_SetString(PyExc_ValueError, "the memory has no room for a set of entries");
    return -1;
}

static void buckets_dealloc(Buckets *buckets)
{
    PyBuffer_Release(&buckets->memory);
    Py_TYPE(buckets)->tp_free((PyObject *)buckets);
}

static PyMethodDef buckets_methods[] = {
    {"judge", judge, METH_VARARGS, "Return the verdict on a query of a client, which counts."},
    {NULL, NULL, 0, NULL},
};

#define FIELD(name, type) {#name, type, offsetof(Buckets, name), READONLY, NULL}
static PyMemberDef buckets_members[] = {
    FIELD(truncated, T_ULONGLONG),
    FIELD(dropped, T_ULONGLONG),
    {NULL, 0, 0, 0, NULL},
};
#undef FIELD

PyTypeObject limit_buckets = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "clusterdns.serving._drain.Buckets",
    .tp_basicsize = sizeof(Buckets),
    .tp_dealloc = (destructor)buckets_dealloc,
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_doc = "Buckets(memory, secret, interval, slack, slip, bits4, bits6, exempt): rate limits.",
    .tp_methods = buckets_methods,
    .tp_members = buckets_members,
    .tp_init = (initproc)buckets_init,
    .tp_new = PyType_GenericNew,
};
