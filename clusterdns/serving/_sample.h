/* The functions of _sample.c: samples of hits and of relayed queries for sampling.py. */
#ifndef CLUSTERDNS_SAMPLE_H
#define CLUSTERDNS_SAMPLE_H
#include "_packet.h"
#include <stdint.h>

#pragma GCC visibility push(hidden)

/* A sampler: (bytearray with its state, list of records). Only Sampler.parts makes one. */
int is_sampler(PyObject *object);

/* The number, from 1, of the first of the next `hits` that is looked at, and how many it stands for; 0
 * for none: Sampler.draw. To be called again with the hits that are left. */
int sample_draw(PyObject *sampler, int hits, int *stands_for);

/* Keep a record of a hit for Python; it is lost if that fails. */
void sample_keep(PyObject *sampler, int stands_for, const unsigned char *packet, size_t length,
                 const struct client *client, double taken, double began, PyObject *reply);

#pragma GCC visibility pop
#endif
