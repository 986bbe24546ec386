#include "_siphash.h"

static uint64_t read64(const unsigned char *from)
{
    uint64_t found = 0;
    for (int i = 7; i >= 0; i--)
        found = found << 8 | from[i];
    return found;
}

static uint64_t rotated(uint64_t number, int bits)
{
    return number << bits | number >> (64 - bits);
}

static void mix(uint64_t v[4], int rounds)
{
    while (rounds--) {
        v[0] += v[1];
        v[2] += v[3];
        v[1] = rotated(v[1], 13) ^ v[0];
        v[3] = rotated(v[3], 16) ^ v[2];
        v[0] = rotated(v[0], 32);
        v[2] += v[1];
        v[0] += v[3];
        v[1] = rotated(v[1], 17) ^ v[2];
        v[3] = rotated(v[3], 21) ^ v[0];
        v[2] = rotated(v[2], 32);
    }
}

static void take_in(uint64_t v[4], uint64_t word)
{
    v[3] ^= word;
    mix(v, 2);
    v[0] ^= word;
}

uint64_t siphash(const unsigned char *key, const unsigned char *octets, size_t length)
{
    uint64_t k0 = read64(key), k1 = read64(key + 8), last = (uint64_t)length << 56;
    uint64_t v[4] = {k0 ^ 0x736f6d6570736575, k1 ^ 0x646f72616e646f6d, k0 ^ 0x6c7967656e657261,
                     k1 ^ 0x7465646279746573};
    size_t whole = length & ~(size_t)7;
    for (size_t i = 0; i < whole; i += 8)
        take_in(v, read64(octets + i));
    for (size_t i = whole; i < length; i++)
        last |= (uint64_t)octets[i] << 8 * (i - whole);
    take_in(v, last);
    v[2] ^= 0xff;
    mix(v, 4);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}
