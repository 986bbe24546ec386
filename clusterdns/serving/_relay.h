/* What _drain.c needs of _relay.c. */
#ifndef CLUSTERDNS_RELAY_H
#define CLUSTERDNS_RELAY_H
#include "_packet.h"

#pragma GCC visibility push(hidden)

/* Take a query that is to be sent on, if one of `zones` has a lane for it; false if Python has to see it. */
int relay_takes(PyObject *zones, int fd, const unsigned char *packet, size_t length,
                const struct client *client, double now);

/* Send what was taken. */
void relay_send(void);

/* Pass on the replies that have come, and append what is handed over; whether Python has to look
 * after that or what is kept, -1 on an error. */
int relay_gathers(PyObject *left, double now);

extern PyTypeObject relay_lane;
PyObject *relay_collect(PyObject *module, PyObject *arguments);
PyObject *relay_expire(PyObject *module, PyObject *arguments);
PyObject *relay_open(PyObject *module, PyObject *arguments);

#pragma GCC visibility pop
#endif
