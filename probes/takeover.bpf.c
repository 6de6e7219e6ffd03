// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/* Takeover: the outbound calls of a cgroup go to a responder on the loopback, and nothing else leaves unless it was chosen.
 *
 * 1. Addresses are rewritten where a call is made (connect, sendmsg) and written back where they are asked for (recvmsg,
 *    getpeername): the program sees the address that it called.
 * 2. The responder asks who was called by getsockopt(SO_ORIGINAL_DST), as it would behind netfilter.
 * 3. A guard on what leaves drops what did not come by 1: raw sockets, datagram sockets that were connected and then sent.
 *
 * Hooks go by the cgroup in which a socket was created, not by the one that its process is in now. All of this is in Linux 5.15;
 * no kernel structure is read, so nothing is relocated but one question for what the kernel has. */
#include <linux/bpf.h>
#include <stddef.h>
#include "takeover.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>

#define true 1
#define false 0
typedef _Bool bool;

#define AF_INET 2
#define AF_INET6 10
#define SOL_IP 0
#define SOL_IPV6 41
#define SO_ORIGINAL_DST 80 /* IP6T_SO_ORIGINAL_DST is the same number */
#define SOCK_STREAM 1
#define IPPROTO_TCP 6
#define IPPROTO_UDP 17
#define ETH_P_IP 0x0800
#define ECONNREFUSED 111
#define DNS bpf_htons(53)
#define MAPPED bpf_htonl(0xffff) /* third word of ::ffff:a.b.c.d */
#define LOOPBACK bpf_htonl(0x7f000001)
#define LOOPBACK_INDEX 1 /* of the device, in every network (LOOPBACK_IFINDEX, include/net/flow.h) */

/* A value of the context that the compiler must read by itself: joined with another's reading, the address is computed, which the
 * verifier does not allow. */
#define KEEP_APART(value)                                                                                                          \
	({                                                                                                                         \
		u32 kept = (value);                                                                                                \
		asm volatile("" : "+r"(kept));                                                                                     \
		kept;                                                                                                              \
	})

/* --- Maps, each with its bound and the reason for it. Every takeover has its own. --- */

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct takeover_settings);
} settings SEC(".maps");

/* What happens to which destination. A recorded service has tens of them; what is passed through by name may have as many
 * addresses as its backends' balancers. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct destination);
	__type(value, struct rule);
} rules SEC(".maps");

/* What a socket was told to call, and by whom. Goes with the socket. */
struct call {
	struct destination destination;
	u32 tgid;
	char command[16];
	u8 told;
	u8 translated; /* it goes to `real`, which the guard lets pass */
	u8 padding[2];
	struct destination real;
};
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct call);
} sockets SEC(".maps");

/* Which servers a socket asked by UDP, each by its port of the resolver; the next one takes the place of the oldest. */
struct servers {
	struct destination each[SERVERS_MAX];
	u32 next;
};
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct servers);
} asked_servers SEC(".maps");

/* Who called what from a local address and port, until the responder asks. LRU: a connection that is never accepted leaves its
 * entry. Of local ports there are fewer than this. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct destination);
	__type(value, struct call);
} originals SEC(".maps");

/* The same, once the responder has asked: local ports are used again, by others too. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct call);
} accepted SEC(".maps");

/* Protocol and port on this machine of which nothing needs to be told: told of, or bound by the workload itself. LRU: a program that
 * tries them all is told of again, and nothing fails. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, u32);
	__type(value, u8);
} known_ports SEC(".maps");

/* Addresses of the machine in the workload's network when it began, port 0, but for those of the loopback. A machine has some, a node
 * of a cluster one for each of its services; a call of one that found no room is judged as another machine's. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct destination);
	__type(value, u8);
} own_addresses SEC(".maps");

/* TCP sockets that the workload has bound. Goes with the socket. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, u8);
} own_sockets SEC(".maps");

/* News: 256 KiB are 4,600 refused calls between two looks of a reader that is woken for each. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 256 << 10);
} news SEC(".maps");

/* News that found no room. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u64);
} news_lost SEC(".maps");

/* --- Words --- */

enum verdict { LEAVE, NOTE, REDIRECT, TRANSLATE, REFUSE };

static __always_inline struct takeover_settings *current_settings(void)
{
	u32 zero = 0;
	return bpf_map_lookup_elem(&settings, &zero);
}

static __always_inline void set_ip4(struct destination *to, u32 address)
{
	to->address[0] = 0;
	to->address[1] = 0;
	to->address[2] = MAPPED;
	to->address[3] = address;
}

static __always_inline bool is_mapped(const struct destination *to)
{
	return !to->address[0] && !to->address[1] && to->address[2] == MAPPED;
}

static __always_inline bool is_local(const struct destination *to)
{
	if (is_mapped(to))
		return (to->address[3] & bpf_htonl(0xff000000)) == bpf_htonl(0x7f000000);
	return !to->address[0] && !to->address[1] && !to->address[2] && to->address[3] == bpf_htonl(1);
}

static __always_inline void tell(u32 kind, u32 protocol, const struct call *call)
{
	struct takeover_event *event = bpf_ringbuf_reserve(&news, sizeof(*event), 0);
	if (!event) {
		u32 zero = 0;
		u64 *lost = bpf_map_lookup_elem(&news_lost, &zero);
		if (lost)
			__sync_fetch_and_add(lost, 1);
		return;
	}
	event->kind = kind;
	event->tgid = call->tgid;
	event->destination = call->destination;
	event->protocol = protocol;
	__builtin_memcpy(event->command, call->command, sizeof(event->command));
	bpf_ringbuf_submit(event, 0);
}

static __always_inline void fill_caller(struct call *call)
{
	call->tgid = bpf_get_current_pid_tgid() >> 32;
	bpf_get_current_comm(call->command, sizeof(call->command));
}

static __always_inline void remember(struct bpf_sock_addr *ctx, const struct call *call)
{
	struct call *kept = bpf_sk_storage_get(&sockets, ctx->sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (kept)
		*kept = *call;
}

/* Tells of what is passed through, the first time. */
static __always_inline void tell_passed(struct rule *rule, u32 protocol, const struct call *call)
{
	if (rule->told)
		return;
	rule->told = 1;
	tell(TAKEOVER_PASSED, protocol, call);
}

static __always_inline void pass_unrecorded(u32 protocol, const struct call *call)
{
	struct rule rule = {.action = ACTION_PASS, .told = 1};
	if (!bpf_map_update_elem(&rules, &call->destination, &rule, BPF_NOEXIST))
		tell(TAKEOVER_PASSED, protocol, call);
}

/* Whether a port on this machine is met for the first time. */
static __always_inline bool is_new_port(u32 protocol, u16 port)
{
	u32 key = protocol << 16 | port;
	u8 known = 1;
	return !bpf_map_lookup_elem(&known_ports, &key) && !bpf_map_update_elem(&known_ports, &key, &known, BPF_NOEXIST);
}

static __always_inline void tell_local(u32 protocol, const struct call *call)
{
	if (is_new_port(protocol, call->destination.port))
		tell(TAKEOVER_LOCAL, protocol, call);
}

static __always_inline bool is_same(const struct destination *one, const struct destination *other)
{
	return one->address[0] == other->address[0] && one->address[1] == other->address[1] &&
	       one->address[2] == other->address[2] && one->address[3] == other->address[3] && one->port == other->port;
}

/* Whether a connection is to an address of the machine and meets nobody there but the workload, or nobody at all. Who listens on all
 * addresses is found for any, another machine's, too, so the address must be known. */
static __always_inline bool is_to_itself(struct bpf_sock_addr *ctx, const struct destination *to)
{
	struct destination address = *to;
	address.port = 0;
	if (!bpf_map_lookup_elem(&own_addresses, &address))
		return false;
	struct bpf_sock_tuple tuple = {};
	u32 size = sizeof(tuple.ipv6);
	if (is_mapped(to)) {
		size = sizeof(tuple.ipv4);
		tuple.ipv4.daddr = to->address[3];
		tuple.ipv4.dport = to->port;
	} else {
		__builtin_memcpy(tuple.ipv6.daddr, to->address, sizeof(to->address));
		tuple.ipv6.dport = to->port;
	}
	struct bpf_sock *listener = bpf_sk_lookup_tcp(ctx, &tuple, size, BPF_F_CURRENT_NETNS, 0);
	if (!listener)
		return true;
	bool own = bpf_sk_storage_get(&own_sockets, listener, 0, 0);
	bpf_sk_release(listener);
	return own;
}

/* The resolver's ports for a question by UDP. */
static __always_inline void choose_port(struct bpf_sock_addr *ctx, const struct takeover_settings *set, const struct call *call,
					u16 *port4, u16 *port6)
{
	struct servers *asked = bpf_sk_storage_get(&asked_servers, ctx->sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!asked)
		return;
	u32 place = SERVERS_MAX;
	for (u32 i = 0; i < SERVERS_MAX; i++)
		if (is_same(&asked->each[i], &call->destination))
			place = i;
	if (place == SERVERS_MAX) {
		place = asked->next++ & (SERVERS_MAX - 1);
		asked->each[place] = call->destination;
	}
	place &= SERVERS_MAX - 1; /* for the verifier */
	*port4 = set->dns_udp4[place];
	*port6 = set->dns_udp6[place];
}

/* Puts the real address in the place of the one that stands for it. */
static __always_inline enum verdict pass(const struct rule *rule, struct call *call)
{
	if (!rule->translated)
		return LEAVE;
	call->translated = 1;
	call->real.port = call->destination.port;
	__builtin_memcpy(call->real.address, rule->real, sizeof(rule->real));
	return TRANSLATE;
}

/* Whether a call goes to the responder as it is: the program has its address, by --listen say. */
static __always_inline bool is_responder(const struct takeover_settings *set, u32 protocol, const struct destination *to)
{
	return protocol == IPPROTO_TCP && to->port && (to->port == set->responder4 || to->port == set->responder6) && is_local(to);
}

/* The call fails, with ECONNREFUSED where the kernel lets address hooks say so (6.1, which also brought the helper asked for
 * here), with EPERM on older ones. */
static __always_inline int refuse(void)
{
	if (bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_user_ringbuf_drain))
		bpf_set_retval(-ECONNREFUSED);
	return 0;
}

/* --- Calls --- */

/* What becomes of a datagram or a connection to a destination that is not DNS. A datagram to a recorded destination is refused
 * (QUIC: its caller comes again by TCP), but for the loopback, where it is somebody else. */
static __always_inline enum verdict judge(struct bpf_sock_addr *ctx, struct takeover_settings *set, u32 protocol, struct call *call)
{
	struct rule *rule = bpf_map_lookup_elem(&rules, &call->destination);
	if (rule && rule->action == ACTION_PASS) {
		tell_passed(rule, protocol, call);
		return pass(rule, call);
	}
	if (rule && rule->action == ACTION_RESPOND && protocol == IPPROTO_TCP)
		return set->closed ? REFUSE : REDIRECT;
	bool here = is_local(&call->destination) || (protocol == IPPROTO_TCP && is_to_itself(ctx, &call->destination));
	if (here && !(rule && rule->action == ACTION_REFUSE)) {
		if (is_responder(set, protocol, &call->destination))
			return NOTE;
		tell_local(protocol, call);
		return LEAVE;
	}
	if (set->pass_unrecorded && !rule) {
		pass_unrecorded(protocol, call);
		return LEAVE;
	}
	tell(TAKEOVER_REFUSED, protocol, call);
	return REFUSE;
}

/* What becomes of a connect. Connecting a datagram socket sends nothing (getaddrinfo does so to order addresses): that is left
 * alone, but for addresses that stand for others, and the guard drops what is sent. */
static __always_inline enum verdict judge_connect(struct bpf_sock_addr *ctx, struct call *call, u16 *port4, u16 *port6)
{
	struct takeover_settings *set = current_settings();
	if (!set)
		return REFUSE;
	u32 protocol = ctx->protocol;
	bool tcp = protocol == IPPROTO_TCP;
	fill_caller(call);
	if (call->destination.port == DNS && (tcp || protocol == IPPROTO_UDP)) {
		*port4 = set->dns_tcp4;
		*port6 = set->dns_tcp6;
		if (!tcp)
			choose_port(ctx, set, call, port4, port6);
		remember(ctx, call);
		return REDIRECT;
	}
	enum verdict verdict = LEAVE;
	if (tcp) {
		verdict = judge(ctx, set, protocol, call);
	} else {
		struct rule *rule = bpf_map_lookup_elem(&rules, &call->destination);
		if (rule && rule->action == ACTION_PASS)
			verdict = pass(rule, call);
	}
	/* A socket may be connected again, to something else. */
	if (tcp && (verdict == LEAVE || verdict == REFUSE))
		bpf_sk_storage_delete(&sockets, ctx->sk);
	else
		remember(ctx, call);
	*port4 = set->responder4;
	*port6 = set->responder6;
	return verdict;
}

/* A call of the unspecified address is one of the address where Linux connects it: of IPv4 the socket's own, where it is bound to one, else
 * the loopback; of IPv6 the loopback, that of IPv4 where the socket is bound to one of IPv4's. That is the one in a recording, and what
 * getpeername says. Of a socket that is tied to a device it is some address of that device, and stays what it is. */
static __always_inline void resolve_unspecified(struct bpf_sock_addr *ctx, struct destination *to)
{
	if (to->address[3])
		return;
	struct bpf_sock *sk = ctx->sk;
	if (is_mapped(to)) {
		u32 own = sk->src_ip4;
		if (own || sk->bound_dev_if <= LOOPBACK_INDEX)
			to->address[3] = own ? own : LOOPBACK;
	} else if (!to->address[0] && !to->address[1] && !to->address[2]) {
		if (sk->src_ip6[2] == MAPPED)
			set_ip4(to, LOOPBACK);
		else
			to->address[3] = bpf_htonl(1);
	}
}

static __always_inline int go4(struct bpf_sock_addr *ctx, enum verdict verdict, const struct call *call, u16 port4)
{
	if (verdict == REFUSE || (verdict == REDIRECT && !port4))
		return refuse();
	if (verdict == REDIRECT) {
		ctx->user_ip4 = LOOPBACK;
		ctx->user_port = port4;
	} else if (verdict == TRANSLATE) {
		ctx->user_ip4 = call->real.address[3];
	}
	return 1;
}

SEC("cgroup/connect4")
int takeover_connect4(struct bpf_sock_addr *ctx)
{
	struct call call = {.destination.port = ctx->user_port};
	set_ip4(&call.destination, ctx->user_ip4);
	resolve_unspecified(ctx, &call.destination);
	u16 port4 = 0, port6 = 0;
	enum verdict verdict = judge_connect(ctx, &call, &port4, &port6);
	return go4(ctx, verdict, &call, port4);
}

static __always_inline void read_ip6(struct bpf_sock_addr *ctx, struct destination *to)
{
	to->address[0] = ctx->user_ip6[0];
	to->address[1] = ctx->user_ip6[1];
	to->address[2] = ctx->user_ip6[2];
	to->address[3] = ctx->user_ip6[3];
}

static __always_inline void write_ip6(struct bpf_sock_addr *ctx, u32 a, u32 b, u32 c, u32 d)
{
	ctx->user_ip6[0] = a;
	ctx->user_ip6[1] = b;
	ctx->user_ip6[2] = c;
	ctx->user_ip6[3] = d;
}

/* To ::1 where there is somebody; else, and for IPv4 calls of IPv6 sockets, to 127.0.0.1 as such a socket reaches it. */
SEC("cgroup/connect6")
int takeover_connect6(struct bpf_sock_addr *ctx)
{
	struct call call = {.destination.port = ctx->user_port};
	read_ip6(ctx, &call.destination);
	resolve_unspecified(ctx, &call.destination);
	u16 port4 = 0, port6 = 0;
	enum verdict verdict = judge_connect(ctx, &call, &port4, &port6);
	if (verdict == REFUSE || (verdict == REDIRECT && !port4 && !port6))
		return refuse();
	if (verdict == REDIRECT && port6 && !is_mapped(&call.destination)) {
		write_ip6(ctx, 0, 0, 0, bpf_htonl(1));
		ctx->user_port = port6;
	} else if (verdict == REDIRECT) {
		write_ip6(ctx, 0, 0, MAPPED, LOOPBACK);
		ctx->user_port = port4;
	} else if (verdict == TRANSLATE) {
		u32 *real = call.real.address;
		write_ip6(ctx, real[0], real[1], real[2], real[3]);
	}
	return 1;
}

/* What becomes of a datagram that names its destination. */
static __always_inline enum verdict judge_datagram(struct bpf_sock_addr *ctx, struct call *call, u16 *port4, u16 *port6)
{
	struct takeover_settings *set = current_settings();
	if (!set)
		return REFUSE;
	fill_caller(call);
	if (call->destination.port == DNS) {
		choose_port(ctx, set, call, port4, port6);
		return REDIRECT;
	}
	enum verdict verdict = judge(ctx, set, IPPROTO_UDP, call);
	if (verdict == TRANSLATE)
		remember(ctx, call);
	return verdict;
}

SEC("cgroup/sendmsg4")
int takeover_sendmsg4(struct bpf_sock_addr *ctx)
{
	struct call call = {.destination.port = ctx->user_port};
	set_ip4(&call.destination, ctx->user_ip4);
	resolve_unspecified(ctx, &call.destination);
	u16 port4 = 0, port6 = 0;
	enum verdict verdict = judge_datagram(ctx, &call, &port4, &port6);
	return go4(ctx, verdict, &call, port4);
}

/* An IPv4 destination of an IPv6 socket comes by sendmsg4, and the kernel takes none from here. */
SEC("cgroup/sendmsg6")
int takeover_sendmsg6(struct bpf_sock_addr *ctx)
{
	struct call call = {.destination.port = ctx->user_port};
	read_ip6(ctx, &call.destination);
	resolve_unspecified(ctx, &call.destination);
	u16 port4 = 0, port6 = 0;
	enum verdict verdict = judge_datagram(ctx, &call, &port4, &port6);
	if (verdict == REFUSE || (verdict == REDIRECT && !port6))
		return refuse();
	if (verdict == REDIRECT) {
		write_ip6(ctx, 0, 0, 0, bpf_htonl(1));
		ctx->user_port = port6;
	} else if (verdict == TRANSLATE) {
		u32 *real = call.real.address;
		write_ip6(ctx, real[0], real[1], real[2], real[3]);
	}
	return 1;
}

/* What the workload binds is its own: calls to it stay within. */
static __always_inline int bind(struct bpf_sock *sk)
{
	is_new_port(sk->protocol, bpf_htons(sk->src_port));
	if (sk->protocol == IPPROTO_TCP)
		bpf_sk_storage_get(&own_sockets, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	return 1;
}

SEC("cgroup/post_bind4")
int takeover_bind4(struct bpf_sock *sk)
{
	return bind(sk);
}

SEC("cgroup/post_bind6")
int takeover_bind6(struct bpf_sock *sk)
{
	return bind(sk);
}

/* --- What the program is shown --- */

/* Where an answer of the resolver, or of who is behind an address that stands for it, came from, as far as the program knows; 0 for
 * anything else. */
static __always_inline struct destination *asked(struct bpf_sock_addr *ctx, const struct destination *from)
{
	struct takeover_settings *set = current_settings();
	struct call *call = bpf_sk_storage_get(&sockets, ctx->sk, 0, 0);
	if (call && call->translated && is_same(&call->real, from))
		return &call->destination;
	struct servers *servers = bpf_sk_storage_get(&asked_servers, ctx->sk, 0, 0);
	if (!set || !servers || !is_local(from) || !from->port)
		return 0;
	for (u32 i = 0; i < SERVERS_MAX; i++)
		if (servers->each[i].port && (from->port == set->dns_udp4[i] || from->port == set->dns_udp6[i]))
			return &servers->each[i];
	return 0;
}

SEC("cgroup/recvmsg4")
int takeover_recvmsg4(struct bpf_sock_addr *ctx)
{
	struct destination from = {.port = ctx->user_port};
	set_ip4(&from, ctx->user_ip4);
	struct destination *called = asked(ctx, &from);
	if (called) {
		ctx->user_ip4 = called->address[3];
		ctx->user_port = called->port;
	}
	return 1;
}

SEC("cgroup/recvmsg6")
int takeover_recvmsg6(struct bpf_sock_addr *ctx)
{
	struct destination from = {.port = ctx->user_port};
	read_ip6(ctx, &from);
	struct destination *called = asked(ctx, &from);
	if (called) {
		u32 *address = called->address;
		write_ip6(ctx, address[0], address[1], address[2], address[3]);
		ctx->user_port = called->port;
	}
	return 1;
}

SEC("cgroup/getpeername4")
int takeover_getpeername4(struct bpf_sock_addr *ctx)
{
	struct call *call = bpf_sk_storage_get(&sockets, ctx->sk, 0, 0);
	if (call) {
		ctx->user_ip4 = call->destination.address[3];
		ctx->user_port = call->destination.port;
	}
	return 1;
}

SEC("cgroup/getpeername6")
int takeover_getpeername6(struct bpf_sock_addr *ctx)
{
	struct call *call = bpf_sk_storage_get(&sockets, ctx->sk, 0, 0);
	if (call) {
		u32 *address = call->destination.address;
		write_ip6(ctx, address[0], address[1], address[2], address[3]);
		ctx->user_port = call->destination.port;
	}
	return 1;
}

/* --- What the responder is told --- */

/* A connection's local end is known here and no packet has left yet: the responder cannot accept it before this is written. Of one that
 * nobody will accept nothing is left, so that no other program is taken for its own by its port. */
SEC("sockops")
int takeover_connecting(struct bpf_sock_ops *ops)
{
	bool begins = ops->op == BPF_SOCK_OPS_TCP_CONNECT_CB;
	bool fails = ops->op == BPF_SOCK_OPS_STATE_CB && ops->args[0] == BPF_TCP_SYN_SENT && ops->args[1] == BPF_TCP_CLOSE;
	if (!begins && !fails)
		return 1;
	struct bpf_sock *sk = ops->sk;
	struct call *call = sk ? bpf_sk_storage_get(&sockets, sk, 0, 0) : 0;
	if (!call || call->translated || call->destination.port == DNS) /* not for the responder */
		return 1;
	struct destination local = {.port = bpf_htons(ops->local_port)};
	u32 ip4 = KEEP_APART(ops->local_ip4);
	if (ops->family == AF_INET) {
		set_ip4(&local, ip4);
	} else {
		local.address[0] = ops->local_ip6[0];
		local.address[1] = ops->local_ip6[1];
		local.address[2] = ops->local_ip6[2];
		local.address[3] = ops->local_ip6[3];
	}
	if (fails) {
		bpf_map_delete_elem(&originals, &local);
		return 1;
	}
	bpf_map_update_elem(&originals, &local, call, BPF_ANY);
	bpf_sock_ops_cb_flags_set(ops, ops->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG);
	return 1;
}

static __always_inline struct call *original_of(struct bpf_sock *sk)
{
	struct call *kept = bpf_sk_storage_get(&accepted, sk, 0, 0);
	if (kept)
		return kept;
	struct destination peer = {.port = sk->dst_port};
	u32 ip4 = KEEP_APART(sk->dst_ip4);
	if (sk->family == AF_INET) {
		set_ip4(&peer, ip4);
	} else {
		peer.address[0] = sk->dst_ip6[0];
		peer.address[1] = sk->dst_ip6[1];
		peer.address[2] = sk->dst_ip6[2];
		peer.address[3] = sk->dst_ip6[3];
	}
	struct call *original = bpf_map_lookup_elem(&originals, &peer);
	if (!original)
		return 0;
	kept = bpf_sk_storage_get(&accepted, sk, original, BPF_SK_STORAGE_GET_F_CREATE);
	if (kept)
		bpf_map_delete_elem(&originals, &peer);
	return kept;
}

/* struct sockaddr_in and sockaddr_in6, as the responder reads them. */
struct answer4 {
	u16 family;
	u16 port;
	u32 address;
	u8 zero[8];
};
struct answer6 {
	u16 family;
	u16 port;
	u32 flow;
	u32 address[4];
	u32 scope;
};

/* getsockopt(SOL_IP, TAKEOVER_CALLER) on a connection of the responder: who called. Far from the numbers of <linux/in.h>. Read by
 * engine/responder/destination.py. */
#define TAKEOVER_CALLER 0x5553
struct answer_caller {
	u32 tgid;
	char command[16];
};

static __always_inline void answer_destination(struct bpf_sockopt *ctx, const struct destination *original)
{
	void *begin = ctx->optval, *end = ctx->optval_end;
	struct answer4 *ip4 = begin;
	struct answer6 *ip6 = begin;
	if (is_mapped(original) && (void *)(ip4 + 1) <= end) {
		*ip4 = (struct answer4){.family = AF_INET, .port = original->port, .address = original->address[3]};
		ctx->optlen = sizeof(*ip4);
		ctx->retval = 0;
	} else if (!is_mapped(original) && (void *)(ip6 + 1) <= end) {
		*ip6 = (struct answer6){.family = AF_INET6, .port = original->port};
		__builtin_memcpy(ip6->address, original->address, sizeof(ip6->address));
		ctx->optlen = sizeof(*ip6);
		ctx->retval = 0;
	}
}

static __always_inline void answer_with_caller(struct bpf_sockopt *ctx, const struct call *original)
{
	void *end = ctx->optval_end;
	struct answer_caller *caller = ctx->optval;
	if ((void *)(caller + 1) > end)
		return;
	caller->tgid = original->tgid;
	__builtin_memcpy(caller->command, original->command, sizeof(caller->command));
	ctx->optlen = sizeof(*caller);
	ctx->retval = 0;
}

/* Answers getsockopt(SO_ORIGINAL_DST) on the responder's connections, at either level; the answer's family is that of the call.
 * And TAKEOVER_CALLER. */
SEC("cgroup/getsockopt")
int takeover_getsockopt(struct bpf_sockopt *ctx)
{
	bool caller = ctx->optname == TAKEOVER_CALLER;
	if ((ctx->optname != SO_ORIGINAL_DST && !caller) || (ctx->level != SOL_IP && ctx->level != SOL_IPV6))
		return 1;
	struct takeover_settings *set = current_settings();
	struct bpf_sock *sk = ctx->sk;
	if (!set || !sk || sk->protocol != IPPROTO_TCP)
		return 1;
	u16 port = bpf_htons(sk->src_port);
	if (port != set->responder4 && port != set->responder6)
		return 1;
	struct call *original = original_of(sk);
	if (!original)
		return 1;
	if (caller)
		answer_with_caller(ctx, original);
	else
		answer_destination(ctx, &original->destination);
	return 1;
}

/* --- The guard --- */

/* The destination of a packet, and whether it is a TCP segment that opens no connection. Offsets are from the IP header. */
static __always_inline int read_packet(struct __sk_buff *skb, struct destination *to, u8 *protocol)
{
	u32 transport = 40, address;
	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		u8 first;
		if (bpf_skb_load_bytes(skb, 0, &first, 1) || bpf_skb_load_bytes(skb, 9, protocol, 1) ||
		    bpf_skb_load_bytes(skb, 16, &address, 4))
			return -1;
		set_ip4(to, address);
		transport = (first & 0xf) * 4;
	} else if (bpf_skb_load_bytes(skb, 6, protocol, 1) || bpf_skb_load_bytes(skb, 24, to->address, 16)) {
		return -1;
	}
	to->port = 0;
	if (*protocol != IPPROTO_TCP && *protocol != IPPROTO_UDP)
		return 0;
	if (bpf_skb_load_bytes(skb, transport + 2, &to->port, 2))
		return -1;
	u8 flags = 0;
	if (*protocol == IPPROTO_TCP && bpf_skb_load_bytes(skb, transport + 13, &flags, 1))
		return -1;
	return *protocol == IPPROTO_TCP && (flags & 0x12) != 0x02; /* not SYN without ACK (RFC 9293 section 3.1) */
}

/* Whether what a socket sends belongs to a connection, where it does not open one: connections came by the hooks above, or were accepted
 * from outside. A raw socket sends segments of any kind. */
static __always_inline bool is_tcp(const struct bpf_sock *sk)
{
	return sk->type == SOCK_STREAM && sk->protocol == IPPROTO_TCP;
}

static __always_inline bool is_resolver(const struct takeover_settings *set, u16 port)
{
	bool found = port == set->dns_tcp4 || port == set->dns_tcp6;
	for (u32 i = 0; i < SERVERS_MAX; i++)
		found |= port == set->dns_udp4[i] || port == set->dns_udp6[i];
	return port && found;
}

/* Priority of packets that the workload sends to the resolver. It stays with them on the loopback, and no socket has one above 6 without
 * CAP_NET_ADMIN (socket(7), SO_PRIORITY). */
#define VOUCHED 0x5553

/* Attached to the resolver's sockets: only the workload asks it. */
SEC("socket")
int takeover_question(struct __sk_buff *skb)
{
	return skb->priority == VOUCHED ? -1 : 0; /* all of it, or nothing */
}

/* Lets packets leave that stay on this machine, belong to a connection, or go where calls pass through; drops all others. */
SEC("cgroup_skb/egress")
int takeover_egress(struct __sk_buff *skb)
{
	struct takeover_settings *set = current_settings();
	struct call call = {};
	u8 protocol = 0;
	if (!set)
		return 0;
	int opens_none = read_packet(skb, &call.destination, &protocol);
	if (opens_none < 0)
		return 0;
	if (is_local(&call.destination)) {
		if (is_resolver(set, call.destination.port))
			skb->priority = VOUCHED;
		return 1;
	}
	struct bpf_sock *sk = skb->sk;
	sk = sk ? bpf_sk_fullsock(sk) : 0;
	if (sk && is_tcp(sk) && (opens_none || skb->ifindex == LOOPBACK_INDEX)) /* a call that stays here was judged by connect */
		return 1;
	struct call *origin = sk ? bpf_sk_storage_get(&sockets, sk, 0, 0) : 0;
	if (origin) {
		call.tgid = origin->tgid;
		__builtin_memcpy(call.command, origin->command, sizeof(call.command));
	}
	if (origin && origin->translated && is_same(&origin->real, &call.destination)) {
		struct rule *stands = bpf_map_lookup_elem(&rules, &origin->destination);
		if (stands)
			tell_passed(stands, protocol, origin);
		return 1;
	}
	struct rule *rule = bpf_map_lookup_elem(&rules, &call.destination);
	if (rule && rule->action == ACTION_PASS) {
		tell_passed(rule, protocol, &call);
		return 1;
	}
	if (set->pass_unrecorded && !rule) {
		pass_unrecorded(protocol, &call);
		return 1;
	}
	/* One word for a socket, not one for each packet. */
	if (!origin || !origin->told)
		tell(TAKEOVER_REFUSED, protocol, &call);
	if (origin)
		origin->told = 1;
	return 0;
}

char LICENSE[] SEC("license") = "GPL"; /* some helpers are for GPL programs only */
