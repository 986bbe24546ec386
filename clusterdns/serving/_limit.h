/* Rate limits by client: Buckets of chain/limits.py, which is the specification. */
#ifndef CLUSTERDNS_LIMIT_H
#define CLUSTERDNS_LIMIT_H
#include "_packet.h"

enum verdict { ANSWER, TRUNCATE, STAY_SILENT };

#pragma GCC visibility push(hidden)

extern PyTypeObject limit_buckets;

/* The verdict on a query of a client. `counts`: it counts; else it is the verdict if it did. */
enum verdict limit_judge(PyObject *buckets, const struct sockaddr_storage *client, double now,
                         int counts);

/* Take back that a query has counted. */
void limit_refund(PyObject *buckets, const struct sockaddr_storage *client);

#pragma GCC visibility pop
#endif
