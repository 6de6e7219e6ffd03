/* Leaves a TLS call in ways that go by the return addresses on the stack, or change the stack.
 *
 *     unwinding throw|throw-new|cancel|switch
 *
 * `throw`: an exception out of the call's turn to its connection; `throw-new`: out of SSL_new; `cancel`: its thread is cancelled there;
 * `switch`: two fibers take turns, each in a call of its own. The connection is a BIO whose functions are here. It is linked with the
 * libraries by their paths, so no header of theirs is needed. */
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <string.h>
#include <ucontext.h>
#include <unistd.h>

#include <stdexcept>

extern "C" {
void *TLS_client_method(), *SSL_CTX_new(void *), *SSL_new(void *), *BIO_meth_new(int, const char *), *BIO_new(void *);
int SSL_read(void *, void *, int), BIO_get_new_index();
int CRYPTO_get_ex_new_index(int, long, void *, void (*)(void *, void *, void *, int, long, void *), void *, void *);
void SSL_set_bio(void *, void *, void *), SSL_set_connect_state(void *), BIO_set_init(void *, int), BIO_set_flags(void *, int);
void BIO_meth_set_read(void *, int (*)(void *, char *, int)), BIO_meth_set_write(void *, int (*)(void *, const char *, int));
void BIO_meth_set_ctrl(void *, long (*)(void *, int, long, void *));
}
#define SOURCE_SINK 0x400
#define CTRL_FLUSH 11
#define READ_AND_RETRY 9
#define CLASS_SSL 0

static void *context, *method;
static sem_t waiting;
static ucontext_t scheduler, fibers[2];
static int turn;

static int throws(void *, char *, int)
{
	throw std::runtime_error("timed out");
}

static void throws_new(void *, void *, void *, int, long, void *)
{
	throw std::runtime_error("no memory");
}

static int waits(void *, char *, int)
{
	sem_post(&waiting);
	for (;;)
		pause();
}

static int yields(void *bio, char *, int)
{
	swapcontext(&fibers[turn], &scheduler);
	BIO_set_flags(bio, READ_AND_RETRY);
	return -1;
}

static int writes(void *, const char *, int length)
{
	return length;
}

static long controls(void *, int command, long, void *)
{
	return command == CTRL_FLUSH;
}

static int call()
{
	void *ssl = SSL_new(context), *bio = BIO_new(method);
	char buffer[10];
	BIO_set_init(bio, 1);
	SSL_set_bio(ssl, bio, bio);
	SSL_set_connect_state(ssl);
	return SSL_read(ssl, buffer, sizeof(buffer));
}

struct Lock {
	~Lock()
	{
		puts("lock released");
	}
};

static void *thread(void *)
{
	Lock lock;
	call();
	return 0;
}

static void fiber()
{
	printf("fiber %d: %d\n", turn, call());
}

static void take_turns()
{
	static char stacks[2][256 << 10];
	for (int i = 0; i < 2; i++) {
		getcontext(&fibers[i]);
		fibers[i].uc_stack.ss_sp = stacks[i];
		fibers[i].uc_stack.ss_size = sizeof(stacks[i]);
		fibers[i].uc_link = &scheduler;
		makecontext(&fibers[i], fiber, 0);
	}
	for (int step = 0; step < 4; step++) {
		turn = step % 2;
		swapcontext(&scheduler, &fibers[turn]);
	}
}

int main(int, char **words)
{
	const char *how = words[1];
	method = BIO_meth_new(BIO_get_new_index() | SOURCE_SINK, how);
	BIO_meth_set_read(method, !strcmp(how, "throw") ? throws : !strcmp(how, "cancel") ? waits : yields);
	BIO_meth_set_write(method, writes);
	BIO_meth_set_ctrl(method, controls);
	context = SSL_CTX_new(TLS_client_method());
	if (!strcmp(how, "throw-new"))
		CRYPTO_get_ex_new_index(CLASS_SSL, 0, 0, throws_new, 0, 0);
	if (!strcmp(how, "cancel")) {
		pthread_t cancelled;
		void *result;
		pthread_create(&cancelled, 0, thread, 0);
		sem_wait(&waiting);
		pthread_cancel(cancelled);
		pthread_join(cancelled, &result);
		puts(result == PTHREAD_CANCELED ? "cancelled" : "ended");
	} else if (!strcmp(how, "switch")) {
		take_turns();
	} else {
		try {
			call();
		} catch (const std::exception &error) {
			printf("caught: %s\n", error.what());
		}
	}
	puts("goes on");
}
