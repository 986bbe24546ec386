/* What _drain.c needs of _relay.c. */
#ifndef CLUSTERDNS_RELAY_H
#define CLUSTERDNS_RELAY_H
#define PY_SSIZE_T_CLEAN
#define _GNU_SOURCE
#include <Python.h>
#include <sys/socket.h>

#pragma GCC visibility push(hidden)

enum { HEADER = 12, OPT = 11, LEAST_LIMIT = 512 };

/* RD + 2 AD + 4 OPT of a plain query, -1 for any other: _PLAIN in table.py. */
int kind_of(const unsigned char *packet, size_t length);

/* What a dict has for some octets, borrowed; NULL for nothing. */
PyObject *look_up(PyObject *dict, const unsigned char *key, size_t length);

/* Who sent a query, as Python's sockets say it. */
PyObject *client_of(const struct sockaddr_storage *from);

/* Take a query that is to be sent on, if one of `zones` has a lane for it; false if Python has to see it. */
int relay_takes(PyObject *zones, int fd, const unsigned char *packet, size_t length,
                const struct sockaddr_storage *client, double now);

/* Send what was taken. */
void relay_send(void);

/* Pass on the replies that have come, and append what is handed over; whether Python has to look
 * after that or what is kept, -1 on an error. */
int relay_gathers(PyObject *left, double now);

/* Where a duration is counted: histogram.TIME_S. */
unsigned char time_bucket(double seconds);

extern PyTypeObject relay_lane;
PyObject *relay_collect(PyObject *module, PyObject *arguments);
PyObject *relay_expire(PyObject *module, PyObject *arguments);
PyObject *relay_open(PyObject *module, PyObject *arguments);

#pragma GCC visibility pop
#endif
