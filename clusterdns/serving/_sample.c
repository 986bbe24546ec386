/* Which hits are looked at: sampling.py is the specification, and shares the state. */
#include "_sample.h"

enum { MAX_EVERY = 1 << 14, MAX_RECORDS = 4096 };

/* The numbers of Sampler.state. */
struct sampler {
    int32_t every, left, behind, window, taken, budget;
    uint32_t random;
};

int is_sampler(PyObject *object)
{
    return object && PyTuple_Check(object) && PyTuple_GET_SIZE(object) == 2 &&
           PyByteArray_Check(PyTuple_GET_ITEM(object, 0)) &&
           PyByteArray_GET_SIZE(PyTuple_GET_ITEM(object, 0)) == sizeof(struct sampler) &&
           PyList_Check(PyTuple_GET_ITEM(object, 1));
}

/* Begin a new row of `every` hits, behind those that are left of the last: Sampler._begin. */
static void begin(struct sampler *state)
{
    uint32_t x = state->random;
    x ^= x << 13;
    x ^= x >> 17;
    x ^= x << 5;
    state->random = x;
    int32_t place = (int32_t)(x >> 8 & (uint32_t)(state->every - 1));
    state->left = state->behind + place + 1;
    state->behind = state->every - 1 - place;
    state->window = state->every;
}

int sample_draw(PyObject *sampler, int hits, int *stands_for)
{
    struct sampler *state = (struct sampler *)PyByteArray_AS_STRING(PyTuple_GET_ITEM(sampler, 0));
    if (state->left > hits) {
        state->left -= hits;
        return 0;
    }
    int found = state->left;
    *stands_for = state->window;
    if (++state->taken >= state->budget && state->every < MAX_EVERY) {
        state->every *= 2;
        state->taken = 0;
    }
    begin(state);
    return found;
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
