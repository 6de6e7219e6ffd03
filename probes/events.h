/* The ABI between the probes and the agent: plain types, no kernel header, the same under gcc and clang -target bpf.
 * agent/events.py mirrors it; tests/agent/test_events.py compares both, field by field, from the debug information. */
#ifndef UNDERSTUDY_EVENTS_H
#define UNDERSTUDY_EVENTS_H

#include "types.h"

#define CHUNK_MAX 16384 /* a TLS record's plaintext (RFC 8446 section 5.1): most reads are one chunk */

enum event_kind {
	EVENT_OPENED = 1,  /* event_opened: before everything else of a stream */
	EVENT_CHUNK,	   /* event_chunk */
	EVENT_GAP,	   /* event_gap: bytes that passed where the probes cannot read them */
	EVENT_BOUND,	   /* event_bound: a TLS stream's socket became known */
	EVENT_HALF_CLOSED, /* event_half_closed: the peer ended its direction */
	EVENT_CLOSED,	   /* event_closed: after everything else of a stream */
	EVENT_EXECUTED,	   /* event_process: its memory, and so its TLS streams, are gone */
	EVENT_EXITED,	   /* event_process */
	EVENT_MAPPED,	   /* event_mapped, in the ring `mappings` */
};

enum direction { DIRECTION_READ = 0, DIRECTION_WRITE = 1 };

enum source { SOURCE_TLS = 1, SOURCE_SOCKET = 2, SOURCE_OPAQUE = 3 };

enum role { ROLE_UNKNOWN = 0, ROLE_CLIENT = 1, ROLE_SERVER = 2 };

enum bind_method { BOUND_NOT = 0, BOUND_SOCKET = 1, BOUND_NESTED = 2, BOUND_CIPHERTEXT = 3 };

/* Cookies of the TLS functions: how to read their arguments and result. */
enum tls_call {
	TLS_READ = 1,	 /* int f(SSL *, void *, int): the length */
	TLS_WRITE,	 /* int f(SSL *, const void *, int): the length */
	TLS_READ_EX,	 /* int f(SSL *, void *, size_t, size_t *length): 1 */
	TLS_WRITE_EX,	 /* int f(SSL *, const void *, size_t, size_t *length): 1 */
	TLS_READ_EARLY,	 /* as TLS_READ_EX, but 1 or 2 (SSL_READ_EARLY_DATA_FINISH) */
	TLS_SENDFILE,	 /* ssize_t f(SSL *, int, off_t, size_t, int): the length, bytes out of reach */
	TLS_OTHER,	 /* carries no application data, but may reach the socket */
	TLS_WRITE_EARLY, /* as TLS_WRITE_EX, which it is built on */
	TLS_ERROR,	 /* int SSL_get_error(SSL *, int): why a call carried nothing, such as that the peer has ended */
	TLS_EARLY_STATUS, /* int SSL_get_early_data_status(const SSL *): what became of early data */
	TLS_WRITE_EX2,	 /* int f(SSL *, const void *, size_t, u64 flags, size_t *length): 1 */
};

/* Identity of a process image: a process that executes another program is another one here. */
struct process {
	u64 started;   /* start of the thread group's leader, ns since boot */
	u64 execution; /* counts its executions (task_struct.self_exec_id) */
	u32 tgid;
	u32 capture; /* whose target it is: the agent's number of the capture */
};

struct socket_facts {
	u64 inode;
	u8 local[16]; /* IPv4 in the first four bytes */
	u8 remote[16];
	u16 family; /* AF_INET, AF_INET6; 0: nothing known */
	u16 local_port;
	u16 remote_port;
	u8 role;
	u8 method;
};

struct event_head {
	u32 kind;
	u32 tid;
	u64 time;   /* CLOCK_MONOTONIC, ns */
	u64 stream; /* unique while the agent lives; 0: not of a stream */
	struct process process;
};

struct event_opened {
	struct event_head head;
	u64 cgroup;
	u64 key; /* SSL * or struct sock * */
	struct socket_facts socket;
	char command[16];
	u8 source;
	u8 start_known;
	u8 padding[6];
};

struct event_chunk {
	struct event_head head;
	u64 offset; /* of the first byte, in its direction */
	u64 lost;   /* bytes of this direction lost so far */
	u32 length; /* of data */
	u8 direction;
	u8 source;
	u8 padding[2];
	u8 data[];
};

struct event_gap {
	struct event_head head;
	u64 offset;
	u64 lost;
	u64 length;
	u8 direction;
	u8 padding[7];
};

struct event_bound {
	struct event_head head;
	struct socket_facts socket;
};

struct event_half_closed {
	struct event_head head;
	u64 offset; /* bytes seen before it */
	u8 direction;
	u8 padding[7];
};

struct tally {
	u64 seen;
	u64 lost;
	u64 opaque;
};

struct event_closed {
	struct event_head head;
	struct tally tally[2]; /* by direction */
	u8 bypassed;	       /* a socket's TLS was written by functions that are not followed */
	u8 cut;		       /* it may have gone on unseen: it is not known that this is its end */
	u8 padding[6];
};

struct event_process {
	struct event_head head;
	char command[16];
};

struct file_key {
	u64 inode;
	u64 size;
	u32 device; /* kernel's dev_t */
	u32 padding;
};

struct event_mapped {
	struct event_head head;
	struct file_key file;
	int fd; /* -1: the executable */
	u32 padding;
};

/* What, and the way it went. */
enum turn {
	TURN_READ = 1,
	TURN_WRITE = 2,
	TURN_WAYS = TURN_READ | TURN_WRITE,
	TURN_TUNNEL = 4, /* a proxy was asked for a tunnel */
	TURN_HEAD = 8,	 /* the head of a handshake record */
	TURN_HELLO = 16, /* a ClientHello */
	TURN_ANSWERED = 32, /* the other side has said something since */
};

/* Of a TLS stream with early data (RFC 8446 section 4.2.10). */
enum early {
	EARLY_NONE = 0,
	EARLY_SENT, /* by a client; that the server took it is not known: if it did not, the client sends it again */
	EARLY_UNFLUSHED, /* the same, and the call that carried the last of it failed to flush it: the program makes that call again */
	EARLY_READ, /* by a server, which is given what it accepted only */
};

/* What a stream's entry in a map holds; the agent reads what is left of them at the end. */
struct stream {
	u64 id;
	struct tally tally[2];
	struct process process;
	struct socket_facts socket;
	u64 sock;	/* struct sock * that a TLS stream is bound to; 0 while it is not */
	u32 references; /* SSL_up_ref and SSL_free; sockets: unused */
	u8 source;
	u8 start_known;
	u8 announced;
	u8 encrypted;  /* a socket that carries TLS */
	u8 read_ended; /* the end of what the peer says was told; a socket with TLS: was read by the TLS library */
	u8 plain;      /* a socket that is known not to carry TLS so far */
	u8 failed;     /* a TLS stream with an error that was not the end of its connection */
	u8 reconciled[2]; /* by direction: `sequence` is the kernel's */
	u8 nested;	  /* a socket that a TLS library has used inside of a followed call */
	u8 tagged;	  /* a socket that carries what a TLS library wrote into memory: the program sends it, where it likes */
	u8 bypassed;	  /* a nested one that is not tagged, with TLS written outside of any followed call */
	u8 turn;	  /* enum turn: of a plain socket, what was said last that may be followed by TLS */
	u8 early;	  /* enum early */
	u8 padding[2];
	/* Of a TCP socket, by direction: */
	u32 sequence[2]; /* the kernel's count after the last byte that was accounted for */
	u32 active[2];	 /* calls in progress */
	u32 entered[2];	 /* calls so far */
	u32 epoch;	 /* of a TLS stream: settings.epoch at its last event; 0: bytes of it have passed unseen since */
};

struct tls_key {
	u64 ssl;
	u64 started;
	u64 execution;
	u32 tgid;
	u32 padding;
};

struct settings {
	u64 ring_limit;	   /* bytes of `events` that chunks may fill: the rest is for the small events */
	u64 wake_at;	   /* wake the reader when so many bytes wait */
	u32 cgroup_levels; /* bit n: some target cgroup lies at depth n */
	u32 epoch;	   /* counts from 1; raised when probes were taken off a file */
	u32 attached;	   /* attachments with a lower number are complete; what others tell is not listened to */
	u32 detaching;	   /* nor is what this one tells, whose probes are just being taken off */
};

enum counter {
	COUNT_SEEN,		 /* bytes that passed */
	COUNT_DELIVERED,	 /* bytes put into the ring */
	COUNT_LOST_RING,	 /* bytes lost for want of room in the ring */
	COUNT_LOST_FAULT,	 /* bytes lost because they could not be copied */
	COUNT_LOST_UNREADABLE,	 /* bytes out of reach: sendfile, splice, sendmmsg, MSG_TRUNC */
	COUNT_UNATTRIBUTED,	 /* bytes lost because a map was full */
	COUNT_OPAQUE,		 /* bytes of ciphertext, left out */
	COUNT_CALLS_UNRETURNED,	 /* TLS calls whose return was not seen */
	COUNT_CALLS_UNTRACKED,	 /* TLS calls and system calls not followed: a map was full, or the socket gone */
	COUNT_EVENTS_LOST,	 /* small events that found no room */
	COUNT_PROCESSES_UNTRACKED, /* processes that a target forked and that are not followed because a map was full */
	COUNT_STREAMS,		 /* makes stream ids */
	COUNTERS,
};

#endif
