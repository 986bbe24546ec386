/* Which queries are looked at: sampling.py is the specification, and shares the state. */
#include "_sample.h"

enum { MAX_EVERY = 1 << 14, MAX_RECORDS = 4096 };
static const double SLOW = 0.1; /* seconds */

/* The numbers of a kind in Sampler.state. */
struct row {
    int32_t every, left, behind, window, taken, budget;
    uint32_t random;
    int32_t start, counted;
};

int is_sampler(PyObject *object)
{
    return object && PyTuple_Check(object) && PyTuple_GET_SIZE(object) == 2 &&
           PyByteArray_Check(PyTuple_GET_ITEM(object, 0)) &&
           PyByteArray_GET_SIZE(PyTuple_GET_ITEM(object, 0)) == KINDS * sizeof(struct row) &&
           PyList_Check(PyTuple_GET_ITEM(object, 1));
}

enum kind kind_of(unsigned rcode, double taken)
{
    return taken >= SLOW ? FAILED : !rcode ? PLAIN : rcode == NXDOMAIN ? DENIED : FAILED;
}

/* Begin a new row of `every` queries, behind those that are left of the last: _begin. */
static void begin(struct row *row)
{
    uint32_t x = row->random;
    x ^= x << 13;
    x ^= x >> 17;
    x ^= x << 5;
    row->random = x;
    int32_t place = (int32_t)(x >> 8 & (uint32_t)(row->every - 1));
    row->counted += row->start;
    row->left = row->start = row->behind + place + 1;
    row->behind = row->every - 1 - place;
    row->window = row->every;
}

int sample_draw(PyObject *sampler, enum kind kind)
{
    PyObject *state = PyTuple_GET_ITEM(sampler, 0);
    struct row *row = (struct row *)PyByteArray_AS_STRING(state) + kind;
    if (row->left > 1) {
        row->left--;
        return 0;
    }
    int stands_for = row->window;
    if (++row->taken >= row->budget && row->every < MAX_EVERY) {
        row->every *= 2;
        row->taken = 0;
    }
    begin(row);
    return stands_for;
}

void sample_keep(PyObject *sampler, int stands_for, const unsigned char *packet, size_t length,
                 const struct client *client, double taken, double began, PyObject *reply)
{
    PyObject *records = PyTuple_GET_ITEM(sampler, 1);
    if (PyList_GET_SIZE(records) >= MAX_RECORDS) {
        Py_XDECREF(reply);
        return;
    }
    PyObject *record = Py_BuildValue("(iy#NddN)", stands_for, packet, (Py_ssize_t)length,
                                     client_of(client), taken, began, reply);
    if (!record || PyList_Append(records, record))
        PyErr_Clear();
    Py_XDECREF(record);
}
