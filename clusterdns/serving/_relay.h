/* The functions of _relay.c for _drain.c. */
#ifndef CLUSTERDNS_RELAY_H
#define CLUSTERDNS_RELAY_H
#include "_packet.h"

#pragma GCC visibility push(hidden)

/* Accept a query to forward, if one of `zones` has a lane for it; false if it is left to Python. */
int relay_takes(PyObject *zones, int fd, const unsigned char *packet, size_t length,
                const struct client *client, double now);

/* Refuse a query that would be over the limit of its client; false if there is none, or room. The chain
 * or the lane that takes the query counts it. */
int relay_refuses(PyObject *zones, int fd, const unsigned char *packet, size_t length,
                  const struct client *client, double now);

/* Send the accepted queries. */
void relay_send(void);

/* Pass on the received replies, and append those handed over; return whether Python has to handle
 * those or the kept ones, -1 on an error. */
int relay_gathers(PyObject *left, double now);

extern PyTypeObject relay_lane;
PyObject *relay_collect(PyObject *module, PyObject *arguments);
PyObject *relay_expire(PyObject *module, PyObject *arguments);
PyObject *relay_open(PyObject *module, PyObject *arguments);

#pragma GCC visibility pop
#endif
