/* A client that leaves TLS calls by siglongjmp, as a program with a time limit does, and goes on with their SSL.
 *
 *     leaving LIBCRYPTO LIBSSL PORT STEP...
 *
 * A step is DEPTH:WHAT:WORDS: at that depth of the stack, `write` or `read` WORDS, or `leave-write` or `leave-read` a call for them. The signal
 * comes when the library turns to the connection, before it has moved a byte. The libraries are loaded by path, so no header of theirs is needed. */
#include <arpa/inet.h>
#include <dlfcn.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

typedef int transfer(void *ssl, void *buffer, int length);
#define ENABLE_PARTIAL_AND_MOVING 3
#define SSL_CTRL_MODE 33

static sigjmp_buf before;
static int leaving;

static void leave(int signal)
{
	siglongjmp(before, signal);
}

/* BIO_callback_fn_ex: called before and after each operation. */
static long turned_to_connection(void *bio, int operation, const char *data, size_t length, int number, long argument, int result, size_t *done)
{
	(void)bio, (void)operation, (void)data, (void)length, (void)number, (void)argument, (void)done;
	if (leaving && (operation == 2 || operation == 3)) /* BIO_CB_READ, BIO_CB_WRITE */
		raise(SIGALRM);
	return result;
}

/* Each level takes the same part of the stack, and every call is made from here: so calls at one depth have one stack pointer. */
static __attribute__((noinline)) int at_depth(int depth, transfer *call, void *ssl, char *buffer, int length)
{
	volatile char part[256];
	part[0] = depth;
	int result = depth ? at_depth(depth - 1, call, ssl, buffer, length) : call(ssl, buffer, length);
	return part[0] == depth ? result : -1;
}

static void check(int right, const char *what)
{
	if (!right) {
		fprintf(stderr, "%s\n", what);
		exit(1);
	}
}

static void step(int depth, const char *what, const char *words, void *ssl, transfer *reading, transfer *writing)
{
	static char buffer[1000];
	int length = strlen(words), writes = strstr(what, "write") != 0;
	transfer *call = writes ? writing : reading;
	if (writes)
		strcpy(buffer, words);
	leaving = !strncmp(what, "leave", 5);
	if (leaving) {
		if (!sigsetjmp(before, 1)) {
			at_depth(depth, call, ssl, buffer, length);
			check(0, "it was not left");
		}
		leaving = 0;
		return;
	}
	int done = 0;
	while (done < length) {
		int part = at_depth(depth, call, ssl, buffer + done, length - done);
		check(part > 0, what);
		done += part;
	}
	check(!memcmp(buffer, words, length), "other words were read");
}

int main(int count, char **words)
{
	void *crypto = dlopen(words[1], RTLD_NOW | RTLD_GLOBAL), *tls = dlopen(words[2], RTLD_NOW);
	check(crypto && tls, "libraries");
	void *(*method)(void) = dlsym(tls, "TLS_client_method"), *(*new_context)(void *) = dlsym(tls, "SSL_CTX_new");
	void *(*new)(void *) = dlsym(tls, "SSL_new"), *(*reader)(void *) = dlsym(tls, "SSL_get_rbio");
	int (*set_fd)(void *, int) = dlsym(tls, "SSL_set_fd"), (*handshake)(void *) = dlsym(tls, "SSL_connect");
	long (*control)(void *, int, long, void *) = dlsym(tls, "SSL_ctrl");
	void (*set_callback)(void *, void *) = dlsym(crypto, "BIO_set_callback_ex");
	transfer *reading = dlsym(tls, "SSL_read"), *writing = dlsym(tls, "SSL_write");

	struct sockaddr_in place = { .sin_family = AF_INET, .sin_port = htons(atoi(words[3])), .sin_addr = { htonl(INADDR_LOOPBACK) } };
	int connection = socket(AF_INET, SOCK_STREAM, 0);
	check(!connect(connection, (struct sockaddr *)&place, sizeof(place)), "connect");
	void *ssl = new(new_context(method()));
	control(ssl, SSL_CTRL_MODE, ENABLE_PARTIAL_AND_MOVING, 0);
	check(set_fd(ssl, connection) == 1 && handshake(ssl) == 1, "handshake");
	set_callback(reader(ssl), turned_to_connection);
	signal(SIGALRM, leave);

	for (int i = 4; i < count; i++) {
		char *what = strchr(words[i], ':') + 1, *said = strchr(what, ':') + 1;
		said[-1] = 0;
		step(atoi(words[i]), what, said, ssl, reading, writing);
	}
	return 0;
}
