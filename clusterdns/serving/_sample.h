/* The functions of _sample.c: samples of hits and of relayed queries for sampling.py. */
#ifndef CLUSTERDNS_SAMPLE_H
#define CLUSTERDNS_SAMPLE_H
#include "_packet.h"
#include <stdint.h>

#pragma GCC visibility push(hidden)

/* A sampler: (bytearray with its state, list of records). Only Sampler.parts makes one. */
int is_sampler(PyObject *object);

/* The kinds of replies, each with a row of its own. */
enum kind { PLAIN, DENIED, FAILED, KINDS };

/* The kind of a reply that took so many seconds. */
enum kind kind_of(unsigned rcode, double taken);

/* How many the next query of a kind stands for if it is looked at, else 0: Sampler.draw. */
int sample_draw(PyObject *sampler, enum kind kind);

/* Keep a record of a hit for Python; it is lost if that fails. */
void sample_keep(PyObject *sampler, int stands_for, const unsigned char *packet, size_t length,
                 const struct client *client, double taken, double began, PyObject *reply);

#pragma GCC visibility pop
#endif
