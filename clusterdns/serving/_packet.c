#include "_packet.h"
#include <arpa/inet.h>
#include <netinet/in.h>

enum { TIMES = 16 };

int form_of(const unsigned char *packet, size_t length)
{
    static const unsigned char counts[] = {0, 1, 0, 0, 0, 0, 0};
    if (length < HEADER || packet[2] & ~0x01 || packet[3] & ~(AD | CD))
        return -1;
    if (memcmp(packet + 4, counts, sizeof counts) != 0 || packet[11] > 1)
        return -1;
    return (packet[2] & 0x01) | (packet[3] & AD) >> 4 | packet[11] << 2 | (packet[3] & CD) >> 1;
}

int fold(unsigned char *to, const unsigned char *from, size_t length)
{
    unsigned char capitals = 0;
    for (size_t i = 0; i < length; i++) {
        unsigned char is_capital = (unsigned char)(from[i] - 'A') < 26;
        capitals |= is_capital;
        to[i] = from[i] | (unsigned char)(is_capital << 5);
    }
    return capitals;
}

PyObject *look_up(PyObject *dict, const unsigned char *key, size_t length)
{
    PyObject *bytes = PyBytes_FromStringAndSize((const char *)key, (Py_ssize_t)length);
    PyObject *found = bytes ? PyDict_GetItemWithError(dict, bytes) : NULL;
    Py_XDECREF(bytes);
    if (!found)
        PyErr_Clear();
    return found;
}

int octets_of_address(const struct sockaddr_storage *client, unsigned char *octets)
{
    enum { MAPPED = 12 }; /* octets before an IPv4 address in IPv6 */
    static const unsigned char mapped[MAPPED] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF};
    if (client->ss_family == AF_INET6) {
        const struct sockaddr_in6 *six = (const struct sockaddr_in6 *)client;
        memcpy(octets, &six->sin6_addr, 16);
        if (memcmp(octets, mapped, MAPPED))
            return 16;
        memmove(octets, octets + MAPPED, 4);
        return 4;
    }
    memcpy(octets, &((const struct sockaddr_in *)client)->sin_addr, 4);
    return 4;
}

PyObject *client_of(const struct client *client)
{
    const struct sockaddr_storage *from = &client->address;
    char host[INET6_ADDRSTRLEN] = "";
    if (from->ss_family == AF_INET6) {
        const struct sockaddr_in6 *six = (const struct sockaddr_in6 *)from;
        inet_ntop(AF_INET6, &six->sin6_addr, host, sizeof host);
        return Py_BuildValue("(siII)", host, ntohs(six->sin6_port), ntohl(six->sin6_flowinfo),
                             six->sin6_scope_id);
    }
    const struct sockaddr_in *four = (const struct sockaddr_in *)from;
    inet_ntop(AF_INET, &four->sin_addr, host, sizeof host);
    return Py_BuildValue("(si)", host, ntohs(four->sin_port));
}

/* Routing chooses the interface (0), as in miekg/dns, except for a link-local address, which needs
 * one. */
void turn_around(struct client *client, size_t octets)
{
    struct cmsghdr *head = &client->source.head;
    client->source_octets = 0;
    if (octets < sizeof *head)
        return;
    if (head->cmsg_level == IPPROTO_IP && head->cmsg_type == IP_PKTINFO) {
        struct in_pktinfo *four = (struct in_pktinfo *)CMSG_DATA(head);
        four->ipi_ifindex = 0;
    } else if (head->cmsg_level == IPPROTO_IPV6 && head->cmsg_type == IPV6_PKTINFO) {
        struct in6_pktinfo *six = (struct in6_pktinfo *)CMSG_DATA(head);
        if (!IN6_IS_ADDR_LINKLOCAL(&six->ipi6_addr))
            six->ipi6_ifindex = 0;
    } else {
        return;
    }
    client->source_octets = octets;
}

void send_to(int fd, struct client *client, unsigned char *octets, size_t length)
{
    struct iovec piece = {octets, length};
    struct msghdr reply = {
        .msg_name = &client->address, .msg_namelen = sizeof client->address,
        .msg_iov = &piece, .msg_iovlen = 1,
        .msg_control = client->source_octets ? &client->source : NULL,
        .msg_controllen = client->source_octets,
    };
    sendmsg(fd, &reply, MSG_DONTWAIT);
}

unsigned char time_bucket(double seconds)
{
    unsigned char found = 0;
    for (double bound = 0.00025; found < TIMES && seconds > bound; bound *= 2)
        found++;
    return found;
}
