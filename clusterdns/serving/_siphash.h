/* SipHash-2-4 (Aumasson, Bernstein 2012): a keyed hash that nobody without the key can steer. */
#ifndef CLUSTERDNS_SIPHASH_H
#define CLUSTERDNS_SIPHASH_H
#include <stddef.h>
#include <stdint.h>

enum { SIPHASH_KEY = 16 };

#pragma GCC visibility push(hidden)

uint64_t siphash(const unsigned char *key, const unsigned char *octets, size_t length);

#pragma GCC visibility pop
#endif
