/* A client that keeps its schedule: how long each query waited, however slow the server is.
 *
 * paced PORT PACKETS RATE SECONDS SOCKETS: sends query n at n/RATE seconds, from SOCKETS sockets in
 * turn, whether or not those before it were answered (an open loop: a server that stalls is asked
 * on). PACKETS has each query behind two octets of length; they are gone through again and again,
 * with IDs of their own.
 *
 * Standard output gets the start, CLOCK_MONOTONIC in nanoseconds as an int64_t, and then a struct
 * record a query, in order. A wait is from the call that sends to the kernel's time stamp of the
 * reply, so what this process does meanwhile is not in it; how late it was to send is told apart.
 *
 * It has no priority above others on purpose: the kernel thread that delivers over loopback what
 * one system call cannot (ksoftirqd) would not run beside it.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <fcntl.h>

enum { BATCH = 64, OCTETS = 4096, SOCKETS = 64, IDS = 65536, BUFFER = 4 << 20 };
enum { SECOND = 1000000000, GRACE_NS = SECOND }; /* the grace is for the last replies */

struct record {
    uint32_t waited_ns; /* from when it was sent to its reply; UINT32_MAX without one */
    uint32_t late_ns;   /* from when it was due to when it was sent */
    uint32_t rcode;     /* 255 without a reply */
};

static struct record *records;
static int64_t total, start, rate, offset; /* offset: from CLOCK_MONOTONIC to CLOCK_REALTIME */
static int count;                          /* of sockets */
static struct pollfd polled[SOCKETS];
static int64_t asked[SOCKETS][IDS]; /* which query has this ID on this socket */

static char octets[BATCH][OCTETS];
static char notes[BATCH][CMSG_SPACE(sizeof(struct timespec))];
static struct iovec pieces[BATCH];
static struct mmsghdr messages[BATCH];

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static int64_t clock_ns(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (int64_t)now.tv_sec * SECOND + now.tv_nsec;
}

static int64_t due(int64_t n)
{
    return start + n / rate * SECOND + n % rate * SECOND / rate;
}

static uint32_t elapsed(int64_t from, int64_t to)
{
    int64_t ns = to - from;
    return ns < 0 ? 0 : ns >= UINT32_MAX ? UINT32_MAX - 1 : (uint32_t)ns;
}

static void open_sockets(int port)
{
    struct sockaddr_in server = {
        .sin_family = AF_INET,
        .sin_port = htons((unsigned short)port),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
    int on = 1, room = BUFFER;
    for (int i = 0; i < count; i++) {
        int sock = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
        if (sock < 0)
            fail("socket");
        setsockopt(sock, SOL_SOCKET, SO_RCVBUF, &room, sizeof room);
        setsockopt(sock, SOL_SOCKET, SO_TIMESTAMPNS, &on, sizeof on);
        if (connect(sock, (struct sockaddr *)&server, sizeof server) < 0)
            fail("connect");
        polled[i] = (struct pollfd){.fd = sock, .events = POLLIN};
        memset(asked[i], 0xff, sizeof asked[i]);
    }
    for (int i = 0; i < BATCH; i++) {
        pieces[i] = (struct iovec){octets[i], OCTETS};
        messages[i].msg_hdr.msg_iov = &pieces[i];
        messages[i].msg_hdr.msg_iovlen = 1;
        messages[i].msg_hdr.msg_control = notes[i];
    }
}

static int64_t arrival(struct msghdr *message)
{
    struct timespec at;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c; c = CMSG_NXTHDR(message, c))
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_TIMESTAMPNS) {
            memcpy(&at, CMSG_DATA(c), sizeof at);
            return (int64_t)at.tv_sec * SECOND + at.tv_nsec - offset;
        }
    return clock_ns(CLOCK_MONOTONIC);
}

static int64_t receive(int i) /* how many replies */
{
    int64_t found = 0;
    for (;;) {
        for (int k = 0; k < BATCH; k++)
            messages[k].msg_hdr.msg_controllen = sizeof notes[k];
        int got = recvmmsg(polled[i].fd, messages, BATCH, MSG_DONTWAIT, NULL);
        if (got <= 0)
            return found;
        for (int k = 0; k < got; k++) {
            unsigned char *head = (unsigned char *)octets[k];
            if (messages[k].msg_len < 12)
                continue;
            int64_t *n = &asked[i][head[0] << 8 | head[1]];
            if (*n < 0)
                continue; /* a second reply */
            int64_t sent = due(*n) + records[*n].late_ns;
            records[*n].waited_ns = elapsed(sent, arrival(&messages[k].msg_hdr));
            records[*n].rcode = head[3] & 15;
            *n = -1;
            found++;
        }
    }
}

static char *read_packets(const char *path, size_t *size)
{
    int file = open(path, O_RDONLY);
    struct stat about;
    if (file < 0 || fstat(file, &about) < 0 || about.st_size < 14)
        fail(path);
    *size = (size_t)about.st_size;
    char *found = mmap(NULL, *size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_POPULATE, file, 0);
    if (found == MAP_FAILED)
        fail("mmap");
    return found;
}

static void send_due(char *packets, size_t size, int64_t *sent, size_t *at)
{
    for (int64_t now; *sent < total && due(*sent) <= (now = clock_ns(CLOCK_MONOTONIC)); ++*sent) {
        unsigned char *packet = (unsigned char *)packets + *at;
        size_t length = (size_t)(packet[0] << 8 | packet[1]);
        int i = (int)(*sent % count);
        unsigned id = (unsigned)(*sent / count) % IDS;
        packet[2] = (unsigned char)(id >> 8);
        packet[3] = (unsigned char)id;
        asked[i][id] = *sent;
        records[*sent].late_ns = elapsed(due(*sent), now);
        send(polled[i].fd, packet + 2, length, 0); /* what does not go out is a query lost */
        *at += 2 + length;
        if (*at + 14 > size)
            *at = 0;
        if (*sent % BATCH == BATCH - 1) { /* late: look for replies too */
            ++*sent;
            return;
        }
    }
}

static void ask(char *packets, size_t size)
{
    int64_t sent = 0, answered = 0;
    size_t at = 0;
    while (answered < total) {
        send_due(packets, size, &sent, &at);
        int64_t until = sent < total ? due(sent) : due(total) + GRACE_NS;
        int64_t left = until - clock_ns(CLOCK_MONOTONIC);
        if (left <= 0 && sent == total)
            return;
        left = left < 0 ? 0 : left;
        struct timespec wait = {left / SECOND, left % SECOND};
        if (ppoll(polled, (nfds_t)count, &wait, NULL) > 0)
            for (int i = 0; i < count; i++)
                if (polled[i].revents)
                    answered += receive(i);
    }
}

int main(int argc, char **argv)
{
    if (argc != 6) {
        fprintf(stderr, "usage: paced PORT PACKETS RATE SECONDS SOCKETS\n");
        return 2;
    }
    rate = atoll(argv[3]);
    count = atoi(argv[5]);
    total = (int64_t)((double)rate * atof(argv[4]));
    if (rate < 1 || total < 1 || count < 1 || count > SOCKETS)
        return 2;
    size_t size;
    char *packets = read_packets(argv[2], &size);
    records = malloc((size_t)total * sizeof *records);
    if (records == NULL)
        fail("malloc");
    for (int64_t n = 0; n < total; n++)
        records[n] = (struct record){UINT32_MAX, 0, 255};
    open_sockets(atoi(argv[1]));
    prctl(PR_SET_TIMERSLACK, 1UL);
    offset = clock_ns(CLOCK_REALTIME) - clock_ns(CLOCK_MONOTONIC);
    start = clock_ns(CLOCK_MONOTONIC) + SECOND / 100;
    ask(packets, size);
    if (llabs(clock_ns(CLOCK_REALTIME) - clock_ns(CLOCK_MONOTONIC) - offset) > 50000)
        fprintf(stderr, "paced: the clock was set meanwhile: these numbers are wrong\n");
    fwrite(&start, sizeof start, 1, stdout);
    fwrite(records, sizeof *records, (size_t)total, stdout);
    return fflush(stdout) ? 1 : 0;
}
