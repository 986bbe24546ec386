/* The functions of _addresses.c for _drain.c and _relay.c. */
#ifndef CLUSTERDNS_ADDRESSES_H
#define CLUSTERDNS_ADDRESSES_H
#include "_packet.h"

#pragma GCC visibility push(hidden)

/* Whether an object is Addresses of response.py. */
int is_addresses(PyObject *found);

/* Whether a set has a label, which begins with its length; true if that cannot be told. */
int has_label(PyObject *labels, const unsigned char *label);

/* Whether a folded name of a reverse zone may exist, with this label right below the zone:
 * Addresses.may_have. */
int has_address(PyObject *addresses, const unsigned char *label, const unsigned char *name,
                size_t length);

/* Whether a folded name may be that of an address in one of a tuple of dicts. */
int is_address_in(PyObject *some, const unsigned char *name, size_t length);

#pragma GCC visibility pop
#endif
