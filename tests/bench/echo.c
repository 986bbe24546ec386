/* What UDP costs here at least: every datagram comes back at once with its QR bit set.
 *
 * echo PORT: serves 127.0.0.1:PORT until killed. Up to 64 datagrams a system call each way; the
 * call to receive waits for the first only. One thread, no allocation, no look-up.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum { BATCH = 64, OCTETS = 512, BUFFER = 4 << 20 };

static char octets[BATCH][OCTETS];
static struct sockaddr_in clients[BATCH];
static struct iovec pieces[BATCH];
static struct mmsghdr messages[BATCH];

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

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: echo PORT\n");
        return 2;
    }
    int sock = socket(AF_INET, SOCK_DGRAM, 0);
    if (sock < 0)
        return fail("socket");
    int room = BUFFER; /* as much as clusterdns asks for */
    setsockopt(sock, SOL_SOCKET, SO_RCVBUF, &room, sizeof room);
    setsockopt(sock, SOL_SOCKET, SO_SNDBUF, &room, sizeof room);
    struct sockaddr_in own = {
        .sin_family = AF_INET,
        .sin_port = htons((unsigned short)atoi(argv[1])),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
    if (bind(sock, (struct sockaddr *)&own, sizeof own) < 0)
        return fail("bind");
    prepare();
    for (;;) {
        int count = recvmmsg(sock, messages, BATCH, MSG_WAITFORONE, NULL);
        if (count < 0)
            return fail("recvmmsg");
        for (int i = 0; i < count; i++) {
            pieces[i].iov_len = messages[i].msg_len;
            if (messages[i].msg_len > 2)
                octets[i][2] |= (char)0x80; /* QR */
        }
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
