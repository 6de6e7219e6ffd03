/* Streams and the ledger: every byte that passes is counted, numbered in its direction, and either put into the ring or
 * counted as lost, at the place where that is decided. */
#ifndef UNDERSTUDY_STREAMS_H
#define UNDERSTUDY_STREAMS_H

#include "maps.h"

#define HELLO_MAX 4096 /* of a socket with TLS, so much of each direction is carried: the hellos, not the ciphertext */

/* A call's steps, in two loops, because the verifier follows at most 8192 branches: 262,144 steps suffice for the 2 GiB that a call can
 * carry (MAX_RW_COUNT) in chunks, and its 1024 segments (UIO_MAXIOV). */
#define STEPS_IN_BATCH 512
#define BATCHES_MAX 512

static __always_inline void count(enum counter which, u64 n)
{
	u32 key = which;
	u64 *value = bpf_map_lookup_elem(&counters, &key);
	if (value)
		__sync_fetch_and_add(value, n);
}

/* Bytes passed of a stream for which there is no room: lost, and in no tally but that of the capture. */
static __noinline int lose_unattributed(u32 capture, u64 length)
{
	count(COUNT_SEEN, length);
	count(COUNT_UNATTRIBUTED, length);
	u64 none = 0, *lost = bpf_map_lookup_elem(&unattributed, &capture);
	if (!lost) {
		bpf_map_update_elem(&unattributed, &capture, &none, BPF_NOEXIST);
		lost = bpf_map_lookup_elem(&unattributed, &capture);
	}
	if (lost)
		__sync_fetch_and_add(lost, length);
	return 0;
}

static __always_inline u64 next_stream_id(void)
{
	u32 key = COUNT_STREAMS;
	u64 *value = bpf_map_lookup_elem(&counters, &key);
	return value ? __sync_fetch_and_add(value, 1) + 1 : 0;
}

static __always_inline u32 current_epoch(void)
{
	u32 zero = 0;
	struct settings *set = bpf_map_lookup_elem(&settings, &zero);
	return set ? set->epoch : 0;
}

/* Whether bytes of a TLS stream may have passed unseen since its last event: probes were taken off a file meanwhile, or its process made
 * calls while it was nobody's target. Of plain sockets, the kernel's own counts tell (see reconcile). */
static __always_inline bool has_hole(const struct stream *stream)
{
	return stream->source == SOURCE_TLS && stream->epoch != current_epoch();
}

/* The capture whose target the current task is, 0 for none. */
static __noinline u32 capture_of_current(void)
{
	u32 zero = 0;
	struct settings *set = bpf_map_lookup_elem(&settings, &zero);
	if (!set)
		return 0;
	u32 levels = set->cgroup_levels;
	for (int level = 0; level < 16; level++) {
		if (!(levels & (1u << level)))
			continue;
		u64 id = bpf_get_current_ancestor_cgroup_id(level);
		u32 *capture = bpf_map_lookup_elem(&target_cgroups, &id);
		if (capture)
			return *capture;
	}
	u32 tgid = bpf_get_current_pid_tgid() >> 32;
	u32 *capture = bpf_map_lookup_elem(&target_processes, &tgid);
	return capture ? *capture : 0;
}

static __always_inline void current_process(struct process *process, u32 capture)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	process->tgid = bpf_get_current_pid_tgid() >> 32;
	process->started = BPF_CORE_READ(task, group_leader, start_boottime);
	process->execution = BPF_CORE_READ(task, self_exec_id);
	process->capture = capture;
}

static __always_inline void fill_head(struct event_head *head, u32 kind, u64 stream, const struct process *process)
{
	head->kind = kind;
	head->tid = (u32)bpf_get_current_pid_tgid();
	head->time = bpf_ktime_get_ns();
	head->stream = stream;
	head->process = *process;
}

/* Wakes the reader only when much is waiting (a wake-up costs about 5 us): otherwise its timer fetches the events. */
static __always_inline u64 wake_flags(u64 waiting)
{
	u32 zero = 0;
	struct settings *set = bpf_map_lookup_elem(&settings, &zero);
	return set && waiting >= set->wake_at ? BPF_RB_FORCE_WAKEUP : BPF_RB_NO_WAKEUP;
}

/* Small events may fill the ring to the end; they are lost only when that is full too. */
#define SMALL_EVENT(event)                                                                                                     \
	({                                                                                                                     \
		void *_e = bpf_ringbuf_reserve(&events, sizeof(*(event)), 0);                                                  \
		if (!_e)                                                                                                       \
			count(COUNT_EVENTS_LOST, 1);                                                                           \
		_e;                                                                                                            \
	})

static __always_inline void submit_small(void *event)
{
	bpf_ringbuf_submit(event, wake_flags(bpf_ringbuf_query(&events, BPF_RB_AVAIL_DATA)));
}

static __noinline int announce(struct stream *stream, u64 key)
{
	if (stream->announced)
		return 0;
	stream->announced = 1;
	struct event_opened *event = SMALL_EVENT(event);
	if (!event) {
		stream->announced = 0; /* again with the next bytes */
		return 0;
	}
	fill_head(&event->head, EVENT_OPENED, stream->id, &stream->process);
	event->cgroup = bpf_get_current_cgroup_id();
	event->key = key;
	event->socket = stream->socket;
	bpf_get_current_comm(event->command, sizeof(event->command));
	event->source = stream->source;
	event->start_known = stream->start_known;
	__builtin_memset(event->padding, 0, sizeof(event->padding));
	submit_small(event);
	return 0;
}

/* Returns whether the end could be told; where not, the entry must stay for the agent to find. */
static __noinline int tell_closed(struct stream *stream)
{
	if (!stream->announced && !stream->tally[0].seen && !stream->tally[1].seen)
		return 1;
	struct event_closed *event = SMALL_EVENT(event);
	if (!event)
		return 0;
	fill_head(&event->head, EVENT_CLOSED, stream->id, &stream->process);
	event->tally[0] = stream->tally[0];
	event->tally[1] = stream->tally[1];
	event->bypassed = stream->bypassed;
	event->cut = has_hole(stream);
	__builtin_memset(event->padding, 0, sizeof(event->padding));
	submit_small(event);
	return 1;
}

static __noinline int tell_bound(struct stream *stream)
{
	struct event_bound *event = SMALL_EVENT(event);
	if (!event)
		return 0;
	fill_head(&event->head, EVENT_BOUND, stream->id, &stream->process);
	event->socket = stream->socket;
	submit_small(event);
	return 0;
}

/* Whether a peer's FIN has come. That a read yields nothing does not tell: it does so after shutdown(SHUT_RD), too, and once more after a
 * reset. TCP keeps the flag to the end; MPTCP has but the state. */
static __always_inline bool peer_has_ended(struct sock *sk)
{
	u8 state = BPF_CORE_READ(sk, __sk_common.skc_state);
	if (state == TCP_CLOSE_WAIT || state == TCP_LAST_ACK || state == TCP_CLOSING)
		return true;
	return BPF_CORE_READ(sk, __sk_common.skc_flags) & (1 << SOCK_DONE);
}

/* Whether a socket is a struct tcp_sock: MPTCP's is not. */
static __always_inline bool is_tcp(struct sock *sk)
{
	return BPF_CORE_READ(sk, sk_protocol) == IPPROTO_TCP;
}

/* Whether a peer's FIN has come and nothing that came before it waits to be read. Of MPTCP, the second part is not known. */
static __noinline bool all_was_read(struct sock *sk)
{
	if (!sk || !peer_has_ended(sk))
		return false;
	struct tcp_sock *tcp = (void *)sk;
	return !is_tcp(sk) || BPF_CORE_READ(tcp, rcv_nxt) - BPF_CORE_READ(tcp, copied_seq) <= 1; /* the FIN, where it was not read */
}

/* The peer has ended its direction: what it said before is all. Told once. */
static __noinline int tell_read_ended(struct stream *stream)
{
	if (stream->read_ended)
		return 0;
	stream->read_ended = 1;
	struct event_half_closed *event = SMALL_EVENT(event);
	if (!event)
		return 0;
	fill_head(&event->head, EVENT_HALF_CLOSED, stream->id, &stream->process);
	event->offset = stream->tally[DIRECTION_READ].seen;
	event->direction = DIRECTION_READ;
	__builtin_memset(event->padding, 0, sizeof(event->padding));
	submit_small(event);
	return 0;
}

struct user_vector {
	u64 base;
	u64 length;
};

/* One call's bytes on their way into the ring. */
struct emission {
	struct process process;
	u64 stream;
	u64 time;
	u64 offset;
	u64 lost; /* of this direction so far */
	u64 vector;    /* user address of the next segment's struct iovec */
	u64 segments;  /* segments left there */
	u64 address;   /* of the next byte */
	u64 left;      /* bytes of the current segment */
	u64 remaining; /* bytes of the call */
	u64 ring_limit;
	u8 direction;
	u8 source;
};

static __always_inline int put_chunk(struct emission *e, u64 n, const u64 room, u64 waiting)
{
	struct event_chunk *event = bpf_ringbuf_reserve(&events, sizeof(*event) + room, 0);
	if (!event)
		return COUNT_LOST_RING;
	asm volatile("" : "+r"(n)); /* clang 14 else proves the bound away that the verifier needs */
	if (n > room)
		n = room;
	if (bpf_probe_read_user(event->data, n, (void *)e->address)) {
		bpf_ringbuf_discard(event, BPF_RB_NO_WAKEUP);
		return COUNT_LOST_FAULT;
	}
	fill_head(&event->head, EVENT_CHUNK, e->stream, &e->process);
	event->head.time = e->time;
	event->offset = e->offset;
	event->lost = e->lost;
	event->length = n;
	event->direction = e->direction;
	event->source = e->source;
	event->padding[0] = event->padding[1] = 0;
	bpf_ringbuf_submit(event, wake_flags(waiting + n));
	return COUNT_DELIVERED;
}

/* A ring record's size must be a constant: the smallest of four that holds the bytes. */
static __noinline int put(struct emission *e, u64 n)
{
	u64 waiting = bpf_ringbuf_query(&events, BPF_RB_AVAIL_DATA);
	if (waiting + n > e->ring_limit)
		return COUNT_LOST_RING;
	if (n <= 256)
		return put_chunk(e, n, 256, waiting);
	if (n <= 2048)
		return put_chunk(e, n, 2048, waiting);
	if (n <= 8192)
		return put_chunk(e, n, 8192, waiting);
	return put_chunk(e, n, CHUNK_MAX, waiting);
}

/* Takes one step: the next chunk, or the next segment. Returns 1 when there is nothing left to do. Not static: the verifier looks at a
 * global function once, not at each call, so that a plain loop of many steps passes on every kernel since 5.15. */
__noinline int emit_step(struct emission *e)
{
	if (!e || !e->remaining)
		return 1;
	if (!e->left) {
		struct user_vector vector;
		if (!e->segments || bpf_probe_read_user(&vector, sizeof(vector), (void *)e->vector))
			return 1;
		e->vector += sizeof(vector);
		e->segments--;
		e->address = vector.base;
		e->left = vector.length < e->remaining ? vector.length : e->remaining;
		return 0;
	}
	u64 n = e->left < CHUNK_MAX ? e->left : CHUNK_MAX;
	int outcome = put(e, n);
	if (e->source != SOURCE_OPAQUE) {
		if (outcome != COUNT_DELIVERED)
			e->lost += n;
		count(outcome, n);
	}
	e->offset += n;
	e->address += n;
	e->left -= n;
	e->remaining -= n;
	return 0;
}

/* Takes many steps; returns 1 when there is nothing left to do. Not static, for the same reason. */
__noinline int emit_batch(struct emission *e)
{
	for (int i = 0; i < STEPS_IN_BATCH; i++)
		if (emit_step(e))
			return 1;
	return 0;
}

/* Ciphertext passed; returns how much did before. */
static __always_inline u64 pass_opaque(struct stream *stream, u8 direction, u64 length)
{
	count(COUNT_OPAQUE, length);
	return __sync_fetch_and_add(&stream->tally[direction & 1].opaque, length);
}

/* Emits what the caller described: time, direction, remaining, and address with left, or vector with segments. */
static __noinline int emit(struct stream *stream, struct emission *e)
{
	u32 zero = 0;
	struct settings *set = bpf_map_lookup_elem(&settings, &zero);
	if (!set || !stream || !e)
		return 0;
	struct tally *tally = &stream->tally[e->direction & 1];
	u64 length = e->remaining;
	e->stream = stream->id;
	e->process = stream->process;
	e->ring_limit = set->ring_limit;
	if (e->source == SOURCE_OPAQUE) {
		e->offset = pass_opaque(stream, e->direction, length);
		if (e->offset >= HELLO_MAX)
			return 0;
		if (e->remaining > HELLO_MAX - e->offset)
			e->remaining = HELLO_MAX - e->offset;
		if (e->left > e->remaining)
			e->left = e->remaining;
	} else {
		count(COUNT_SEEN, length);
		e->offset = __sync_fetch_and_add(&tally->seen, length);
	}
	u64 lost_before = tally->lost;
	e->lost = lost_before;
	for (int i = 0; i < BATCHES_MAX; i++)
		if (emit_batch(e))
			break;
	if (e->source == SOURCE_OPAQUE)
		return 0;
	if (e->remaining) {
		count(COUNT_LOST_FAULT, e->remaining);
		e->lost += e->remaining;
	}
	if (e->lost != lost_before)
		__sync_fetch_and_add(&tally->lost, e->lost - lost_before);
	return 0;
}

/* Bytes that passed where they cannot be read. */
static __noinline int emit_gap(struct stream *stream, u8 direction, u64 length)
{
	struct tally *tally = &stream->tally[direction & 1];
	u64 offset = __sync_fetch_and_add(&tally->seen, length);
	u64 lost = __sync_fetch_and_add(&tally->lost, length);
	count(COUNT_SEEN, length);
	count(COUNT_LOST_UNREADABLE, length);
	struct event_gap *event = SMALL_EVENT(event);
	if (!event)
		return 0;
	fill_head(&event->head, EVENT_GAP, stream->id, &stream->process);
	event->offset = offset;
	event->lost = lost;
	event->length = length;
	event->direction = direction;
	__builtin_memset(event->padding, 0, sizeof(event->padding));
	submit_small(event);
	return 0;
}

/* The kernel's own count of a direction's bytes: without the FIN, which counts as one there. */
static __always_inline u32 kernel_sequence(struct sock *sk, u8 direction)
{
	struct tcp_sock *tcp = (void *)sk;
	if (direction == DIRECTION_WRITE)
		return BPF_CORE_READ(tcp, write_seq);
	u32 copied = BPF_CORE_READ(tcp, copied_seq);
	return peer_has_ended(sk) && copied == BPF_CORE_READ(tcp, rcv_nxt) ? copied - 1 : copied;
}

/* By so much our count may be ahead of the kernel's: urgent bytes are read before they are counted. Of these there is one at most for each
 * segment that waits to be read, and so many segments would take 768 MiB. Any other difference is what the kernel has moved: modulo 4 GiB,
 * for it counts in 32 bits. */
#define URGENT_MAX (1u << 20)

/* Finds what was read or written by other ways than the calls that are followed: AIO, io_uring, TCP_ZEROCOPY_RECEIVE, or a process that
 * is no target. The kernel's count then differs from ours, and the difference is a gap. Only while no followed call is in progress, whose
 * bytes the kernel counts before we do. Both counts start with the first look. */
static __noinline int reconcile_direction(struct stream *stream, struct sock *sk, u8 direction)
{
	if (!stream || !sk)
		return 0;
	direction &= 1;
	u32 entered = *(volatile u32 *)&stream->entered[direction];
	u32 before = *(volatile u32 *)&stream->sequence[direction];
	u32 now = kernel_sequence(sk, direction);
	if (*(volatile u32 *)&stream->active[direction] || *(volatile u32 *)&stream->entered[direction] != entered)
		return 0;
	u32 foreign = now - before;
	if (stream->reconciled[direction] && (!foreign || foreign >= 0u - URGENT_MAX))
		return 0;
	if (__sync_val_compare_and_swap(&stream->sequence[direction], before, now) != before)
		return 0; /* somebody else looked */
	if (!stream->reconciled[direction]) {
		stream->reconciled[direction] = 1;
		return 0;
	}
	announce(stream, (u64)sk);
	return emit_gap(stream, direction, foreign);
}

/* Whether the kernel counts a socket's bytes: not MPTCP's, and a socket in the hands of the kernel (sk_user_data: a sockmap, say) counts in its
 * own way. */
static __always_inline bool is_counted(struct sock *sk)
{
	return is_tcp(sk) && !BPF_CORE_READ(sk, sk_user_data);
}

/* Both directions of a plain socket, while its counts are those of a connection: a FIN of ours is in the count of what was written. */
static __noinline int reconcile(struct stream *stream, struct sock *sk, u8 state)
{
	if (!stream || !sk || stream->encrypted || !is_counted(sk))
		return 0;
	bool open = state == TCP_ESTABLISHED || state == TCP_CLOSE_WAIT;
	if (open)
		reconcile_direction(stream, sk, DIRECTION_WRITE);
	if (open || (stream->reconciled[DIRECTION_READ] && state != TCP_SYN_SENT))
		reconcile_direction(stream, sk, DIRECTION_READ);
	return 0;
}

#endif
