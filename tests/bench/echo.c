/* What DNS over UDP and TCP costs here at least, and an upstream server that costs next to nothing.
 *
 * echo PORT: sends every message back at once with its QR bit set. Up to 64 datagrams a system call
 * each way, the call to receive waits for the first only; TCP in a thread of its own, all whole
 * messages of a read in one write. No allocation, no look-up.
 * echo PORT answer: a resolver that knows everything, over UDP: a question of type A, PTR or HTTPS gets
 * one record with a TTL of 300 s, anything else NODATA with the root's SOA. If the first label is `ns`,
 * two name servers and an address of one follow in the other sections.
 *
 * Serves 127.0.0.1:PORT until killed.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BATCH = 64, OCTETS = 512, BUFFER = 4 << 20, HEADER = 12, STREAM = 1 << 16, STREAMS = 256 };

static char octets[BATCH][OCTETS];
static struct sockaddr_in clients[BATCH];
static struct iovec pieces[BATCH];
static struct mmsghdr messages[BATCH];

/* What of a stream has been read and is no whole message yet; by file descriptor. */
static struct { size_t length; char octets[STREAM]; } streams[STREAMS];

static int fail(const char *what)
{
    perror(what);
    return 1;
}

static void prepare(void)
{
    for (int i = 0; i < BATCH; i++) {
        pieces[i].iov_base = octets[i];
        pieces[i].iov_len = OCTETS;
        messages[i].msg_hdr.msg_name = &clients[i];
        messages[i].msg_hdr.msg_namelen = sizeof clients[i];
        messages[i].msg_hdr.msg_iov = &pieces[i];
        messages[i].msg_hdr.msg_iovlen = 1;
    }
}

static size_t echo(char *message, size_t length)
{
    if (length > 2)
        message[2] |= (char)0x80; /* QR */
    return length;
}

/* Add two name servers of the name behind the first label, and an address; return the new end. */
static size_t add_servers(char *message, size_t end)
{
    static const char servers[] = "\xc0\x0f\0\2\0\1\0\0\1\x2c\0\6\3ns1\xc0\x0f"
                                  "\xc0\x0f\0\2\0\1\0\0\1\x2c\0\6\3ns2\xc0\x0f";
    static const char glue[] = "\0\1\0\1\0\0\1\x2c\0\4\xc0\0\2\2";
    size_t server = end + 12; /* the name of the first */
    if (end + sizeof servers + sizeof glue > OCTETS)
        return end;
    message[9] = 2;
    message[11] = 1;
    memcpy(message + end, servers, sizeof servers - 1);
    end += sizeof servers - 1;
    message[end++] = (char)(0xC0 | server >> 8);
    message[end++] = (char)server;
    memcpy(message + end, glue, sizeof glue - 1);
    return end + sizeof glue - 1;
}

/* Make a query its reply in place and return its length; what is no query is a format error. */
static size_t answer(char *message, size_t length)
{
    static const char record[] = "\xc0\x0c\0\1\0\1\0\0\1\x2c\0\4\xc0\0\2\1"; /* 192.0.2.1 */
    static const char pointer[] = "\xc0\x0c\0\x0c\0\1\0\0\1\x2c\0\x0f\4host\4test\3org\0";
    static const char https[] = "\xc0\x0c\0\x41\0\1\0\0\1\x2c\0\x0a\0\1\0\0\1\0\3\2h2";
    static const char soa[] = "\0\0\6\0\1\0\0\1\x2c\0\x16\0\0\0\0\0\1\0\0\x0e\x10\0\0\3\x84"
                              "\0\1\x51\x80\0\0\1\x2c"; /* minimum 300 */
    if (length < HEADER)
        return echo(message, length);
    size_t end = HEADER;
    while (end < length && message[end])
        end += 1 + (unsigned char)message[end];
    end += 5; /* the root, type and class */
    message[2] = (char)(0x80 | (message[2] & 0x79)); /* QR, not AA, not TC */
    message[3] = (char)0x80;                         /* RA */
    memset(message + 6, 0, 6);
    if (end > length || end + sizeof soa > OCTETS || memcmp(message + 4, "\0\1", 2)) {
        message[3] |= 1; /* FORMERR */
        memset(message + 4, 0, 2);
        return HEADER;
    }
    message[7] = 1; /* answers; an OPT record of the query goes with what it is overwritten by */
    if (!memcmp(message + end - 4, "\0\1\0\1", 4)) {
        memcpy(message + end, record, sizeof record - 1);
        end += sizeof record - 1;
        return memcmp(message + HEADER, "\2ns", 3) ? end : add_servers(message, end);
    }
    if (!memcmp(message + end - 4, "\0\x0c\0\1", 4)) {
        memcpy(message + end, pointer, sizeof pointer - 1);
        return end + sizeof pointer - 1;
    }
    if (!memcmp(message + end - 4, "\0\x41\0\1", 4)) {
        memcpy(message + end, https, sizeof https - 1);
        return end + sizeof https - 1;
    }
    message[7] = 0;
    message[9] = 1; /* authority */
    memcpy(message + end, soa, sizeof soa - 1);
    return end + sizeof soa - 1;
}

static int serve_datagrams(int sock, size_t (*reply)(char *, size_t))
{
    prepare();
    for (;;) {
        int count = recvmmsg(sock, messages, BATCH, MSG_WAITFORONE, NULL);
        if (count < 0)
            return fail("recvmmsg");
        for (int i = 0; i < count; i++)
            pieces[i].iov_len = reply(octets[i], messages[i].msg_len);
        for (int sent = 0; sent < count;) {
            int done = sendmmsg(sock, messages + sent, (unsigned)(count - sent), 0);
            sent += done > 0 ? done : 1; /* one that cannot be sent is as good as lost */
        }
        for (int i = 0; i < count; i++) {
            pieces[i].iov_len = OCTETS;
            messages[i].msg_hdr.msg_namelen = sizeof clients[i];
        }
    }
}

/* Send back the whole messages of a stream; return 0 at its end. */
static int serve_stream(int fd)
{
    char *start = streams[fd].octets;
    ssize_t count = read(fd, start + streams[fd].length, STREAM - streams[fd].length);
    if (count <= 0)
        return 0;
    size_t length = streams[fd].length + (size_t)count, whole = 0;
    while (length - whole >= 2) {
        size_t size = (size_t)((unsigned char)start[whole] << 8 | (unsigned char)start[whole + 1]);
        if (length - whole < 2 + size)
            break;
        echo(start + whole + 2, size);
        whole += 2 + size;
    }
    for (size_t sent = 0; sent < whole;) {
        ssize_t done = send(fd, start + sent, whole - sent, MSG_NOSIGNAL);
        if (done <= 0)
            return 0;
        sent += (size_t)done;
    }
    memmove(start, start + whole, length - whole);
    streams[fd].length = length - whole;
    return length - whole < STREAM;
}

static void *serve_streams(void *argument)
{
    int listener = *(int *)argument, poll = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener}, ready[BATCH];
    epoll_ctl(poll, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int count = epoll_wait(poll, ready, BATCH, -1);
        for (int i = 0; i < count; i++) {
            int fd = ready[i].data.fd;
            if (fd != listener) {
                if (!serve_stream(fd))
                    close(fd);
                continue;
            }
            fd = accept(listener, NULL, NULL);
            if (fd >= STREAMS) {
                close(fd);
            } else if (fd >= 0) {
                streams[fd].length = 0;
                event.data.fd = fd;
                epoll_ctl(poll, EPOLL_CTL_ADD, fd, &event);
            }
        }
    }
    return NULL;
}

static int open_socket(int type, int port)
{
    int sock = socket(AF_INET, type, 0), room = BUFFER, on = 1; /* as much as clusterdns asks for */
    struct sockaddr_in own = {
        .sin_family = AF_INET,
        .sin_port = htons((unsigned short)port),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
    if (type == SOCK_DGRAM) {
        setsockopt(sock, SOL_SOCKET, SO_RCVBUF, &room, sizeof room);
        setsockopt(sock, SOL_SOCKET, SO_SNDBUF, &room, sizeof room);
    } else {
        setsockopt(sock, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    }
    if (sock < 0 || bind(sock, (struct sockaddr *)&own, sizeof own) < 0)
        exit(fail("bind"));
    return sock;
}

int main(int argc, char **argv)
{
    if (argc != 2 && !(argc == 3 && !strcmp(argv[2], "answer"))) {
        fprintf(stderr, "usage: echo PORT [answer]\n");
        return 2;
    }
    int sock = open_socket(SOCK_DGRAM, atoi(argv[1]));
    if (argc == 3)
        return serve_datagrams(sock, answer);
    int listener = open_socket(SOCK_STREAM, atoi(argv[1]));
    pthread_t thread;
    if (listen(listener, BATCH) || pthread_create(&thread, NULL, serve_streams, &listener))
        return fail("listen");
    return serve_datagrams(sock, echo);
}
