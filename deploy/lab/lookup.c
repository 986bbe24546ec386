/* Look up hosts with the C library's own resolver, and print each with its addresses.
 *
 * Built with musl-gcc it is what Alpine's programs do; glibc's `getent ahosts` is the other half.
 */
#include <netdb.h>
#include <stdio.h>
#include <sys/socket.h>

int main(int count, char **words)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found, *each;
    char text[64];

    for (int i = 1; i < count; i++) {
        if (getaddrinfo(words[i], NULL, &hints, &found))
            continue;
        for (each = found; each; each = each->ai_next)
            if (!getnameinfo(each->ai_addr, each->ai_addrlen, text, sizeof text, NULL, 0,
                             NI_NUMERICHOST))
                printf("%s %s\n", text, words[i]);
        freeaddrinfo(found);
    }
    return 0;
}
