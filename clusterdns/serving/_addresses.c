/* The names of a reverse zone that may exist: Addresses of response.py. */
#include "_addresses.h"
#include <arpa/inet.h>

enum { LABELS, SERVICES, ENDPOINTS, FIELDS }; /* the items of Addresses */

int is_addresses(PyObject *found)
{
    return PyTuple_Check(found) && PyTuple_GET_SIZE(found) == FIELDS &&
           PyAnySet_Check(PyTuple_GET_ITEM(found, LABELS)) &&
           PyDict_Check(PyTuple_GET_ITEM(found, SERVICES)) &&
           PyDict_Check(PyTuple_GET_ITEM(found, ENDPOINTS));
}

int has_label(PyObject *labels, const unsigned char *label)
{
    PyObject *octets = PyBytes_FromStringAndSize((const char *)label + 1, label[0]);
    int found = octets ? PySet_Contains(labels, octets) : -1;
    Py_XDECREF(octets);
    if (found < 0)
        PyErr_Clear();
    return found;
}

/* Write the labels of a name from right to left, with dots between, without the last `skipped`
 * octets; return the length, -1 if these begin within a label. */
static Py_ssize_t write_reversed(char *text, const unsigned char *name, size_t length,
                                 size_t skipped)
{
    size_t left = length - skipped, total = left ? left - 1 : 0, i = 0;
    for (size_t at = total; i < left && name[i] <= at; i += 1u + name[i]) {
        at -= name[i];
        memcpy(text + at, name + i + 1, name[i]);
        if (at)
            text[--at] = '.';
    }
    return i == left ? (Py_ssize_t)total : -1;
}

/* The value of a hexadecimal digit in lower case, -1 for another octet. */
static int nibble_of(unsigned char digit)
{
    if (digit >= '0' && digit <= '9')
        return digit - '0';
    return digit >= 'a' && digit <= 'f' ? digit - 'a' + 10 : -1;
}

/* name.plain_address: the length of the text, -1 for None. */
static Py_ssize_t plain_address(char *text, const unsigned char *name, size_t length)
{
    enum { NIBBLES = 32, ZEROS = 10 };
    static const unsigned char four[] = "\7in-addr\4arpa", six[] = "\3ip6\4arpa", zeros[ZEROS];
    unsigned char address[NIBBLES / 2] = {0};
    if (length >= sizeof four && !memcmp(name + length - sizeof four, four, sizeof four))
        return write_reversed(text, name, length, sizeof four);
    if (length < sizeof six || memcmp(name + length - sizeof six, six, sizeof six))
        return -1;
    size_t nibbles = (length - sizeof six) / 2;
    if ((length - sizeof six) % 2)
        return -1;
    for (size_t i = 0; i < nibbles; i++) {
        int value = nibble_of(name[2 * i + 1]);
        if (value < 0 || name[2 * i] != 1)
            return -1;
        if (i < NIBBLES)
            address[(NIBBLES - 1 - i) / 2] |= (unsigned char)(i & 1 ? value << 4 : value);
    }
    if (nibbles != NIBBLES)
        return nibbles / 4 == NIBBLES / 4 ? -1 : 0;
    if (!memcmp(address, zeros, ZEROS) || !inet_ntop(AF_INET6, address, text, INET6_ADDRSTRLEN))
        return -1;
    return (Py_ssize_t)strlen(text);
}

/* The text of the address of a name; NULL if it may be that of any. */
static PyObject *text_of(const unsigned char *name, size_t length)
{
    char text[MAX_NAME];
    Py_ssize_t octets = plain_address(text, name, length);
    return octets < 0 ? NULL : PyUnicode_DecodeLatin1(text, octets, NULL);
}

int has_address(PyObject *addresses, const unsigned char *label, const unsigned char *name,
                size_t length)
{
    int is_number = label[1] >= '0' && label[1] <= '9'; /* then it is none of the labels */
    if (!is_number && has_label(PyTuple_GET_ITEM(addresses, LABELS), label))
        return 1;
    PyObject *address = text_of(name, length);
    int found = address ? PyDict_Contains(PyTuple_GET_ITEM(addresses, SERVICES), address) : -1;
    if (!found)
        found = PyDict_Contains(PyTuple_GET_ITEM(addresses, ENDPOINTS), address);
    Py_XDECREF(address);
    if (found < 0)
        PyErr_Clear();
    return found;
}

int is_address_in(PyObject *some, const unsigned char *name, size_t length)
{
    PyObject *address = NULL;
    int found = 0;
    for (Py_ssize_t i = 0; !found && i < PyTuple_GET_SIZE(some); i++) {
        PyObject *dict = PyTuple_GET_ITEM(some, i);
        if (!PyDict_Check(dict) || !PyDict_GET_SIZE(dict))
            continue;
        if (!address)
            address = text_of(name, length);
        found = address ? PyDict_Contains(dict, address) : -1;
    }
    Py_XDECREF(address);
    if (found < 0)
        PyErr_Clear();
    return found;
}
