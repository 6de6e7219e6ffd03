/* The interface between the takeover's hooks and the agent: plain types, no kernel header, the same under gcc and clang
 * -target bpf. agent/takeover/events.py mirrors it; a test compares both, field by field. */
#ifndef UNDERSTUDY_TAKEOVER_H
#define UNDERSTUDY_TAKEOVER_H

#include "types.h"

/* Where a call goes. */
struct destination {
	u32 address[4]; /* IPv6; IPv4 as ::ffff:a.b.c.d */
	u16 port;	/* network order, as all ports here */
	u16 padding;
};

enum action {
	ACTION_RESPOND = 1, /* recorded: to the responder */
	ACTION_PASS,	    /* keeps its real connection */
	ACTION_REFUSE,	    /* refused, though it is on the loopback */
};

struct rule {
	u8 action;
	u8 told;       /* that it is passed through */
	u8 translated; /* the address called stands for `real`: with ACTION_PASS */
	u8 padding;
	u32 real[4];
};

/* Servers of names that a socket can ask at a time. A resolv.conf has three (MAXNS of <resolv.h>). A power of two. */
#define SERVERS_MAX 4

/* Ports on 127.0.0.1 and ::1; 0: not there. Without a port for them, names are refused. By UDP the resolver has a port for each server
 * that one socket asks: where its answer comes from tells who was asked. */
struct takeover_settings {
	u16 responder4;
	u16 responder6;
	u16 dns_udp4[SERVERS_MAX];
	u16 dns_udp6[SERVERS_MAX];
	u16 dns_tcp4;
	u16 dns_tcp6;
	u8 closed;	    /* the responder is gone: refuse what it would answer */
	u8 pass_unrecorded; /* what no rule names keeps its real connection, instead of being refused */
	u8 padding[2];
};

enum takeover_news {
	TAKEOVER_REFUSED = 1,
	TAKEOVER_PASSED, /* the first time for each destination */
	TAKEOVER_LOCAL,	 /* to a program on this machine that was not recorded: the first time for each port */
};

struct takeover_event {
	u32 kind;
	u32 tgid;
	struct destination destination;
	u32 protocol; /* IPPROTO_* */
	char command[16];
};

#endif
