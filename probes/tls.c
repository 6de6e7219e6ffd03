/* TLS libraries: uprobes on OpenSSL and what shares its API (BoringSSL, LibreSSL, AWS-LC).
 *
 * Plaintext is taken at the return of a call, with the length that the call reports: on an error or a retry nothing passed.
 * CPython >= 3.10 calls only the *_ex functions, so both kinds are probed. SSL_peek carries nothing: its bytes are read again.
 * SSL pointers are reused at once by allocators and by nginx: SSL_new, SSL_clear and the last SSL_free cut a stream.
 *
 * A return probe replaces the return address of the call, which a program may mind that unwinds or switches its stack. Since Linux 6.13,
 * entry and return are one program, a session, whose entry keeps the return address of whoever is no target as it is. Before, they are
 * two programs, and probes are in everybody's calls. */

/* What a session answers at the entry of a call. */
enum session_answer {
	PROBE_RETURN = 0,
	SPARE_RETURN = 1,
};

/* Whether a session runs at the return of a call: not at the function's first byte. (The kfunc that tells has another prototype since
 * Linux 7.0, and libbpf compares them.) */
static __always_inline bool is_return(struct pt_regs *ctx)
{
	return PT_REGS_IP(ctx) != bpf_get_func_ip(ctx);
}

/* Whether a probe is to be listened to: from the moment on that all of its file are there, until the first is taken off. Else it would show
 * some of a stream's calls while others pass unseen. */
static __always_inline bool is_on(void *ctx)
{
	u32 zero = 0, attachment = ATTACHMENT_OF(bpf_get_attach_cookie(ctx));
	struct settings *set = bpf_map_lookup_elem(&settings, &zero);
	return set && attachment < set->attached && attachment != set->detaching;
}

static __always_inline void key_of(struct tls_key *key, u64 ssl, const struct process *process)
{
	key->ssl = ssl;
	key->started = process->started;
	key->execution = process->execution;
	key->tgid = process->tgid;
	key->padding = 0;
}

static __noinline int open_tls(struct tls_key *key, u32 capture, u8 start_known, u32 references)
{
	struct stream stream = {
		.id = next_stream_id(),
		.process = { key->started, key->execution, key->tgid, capture },
		.references = references,
		.source = SOURCE_TLS,
		.start_known = start_known,
		.epoch = current_epoch(),
	};
	/* NOEXIST: of two threads that see a stream first, one makes it. */
	bpf_map_update_elem(&tls_streams, key, &stream, BPF_NOEXIST);
	return 0;
}

static __noinline int end_tls(struct tls_key *key)
{
	struct stream *stream = bpf_map_lookup_elem(&tls_streams, key);
	if (stream && tell_closed(stream))
		bpf_map_delete_elem(&tls_streams, key);
	return 0;
}

/* Bytes may have passed unseen: the stream ends here, and what follows on the same socket is one whose start is unknown. */
static __noinline int break_tls(struct tls_key *key)
{
	struct stream *stream = bpf_map_lookup_elem(&tls_streams, key);
	if (!stream)
		return 0;
	if (has_hole(stream)) {
		/* The socket may be another one by now. */
		__builtin_memset(&stream->socket, 0, sizeof(stream->socket));
		stream->sock = 0;
	}
	stream->epoch = 0;
	tell_closed(stream); /* where it finds no room, its bytes stay in the totals */
	stream->epoch = current_epoch();
	stream->id = next_stream_id();
	__builtin_memset(stream->tally, 0, sizeof(stream->tally));
	stream->start_known = 0;
	stream->announced = 0;
	stream->read_ended = 0;
	stream->early = EARLY_NONE;
	return 0;
}

static __always_inline struct stream *tls_stream(struct tls_key *key, u32 capture)
{
	struct stream *stream = bpf_map_lookup_elem(&tls_streams, key);
	if (stream) {
		if (stream->process.capture != capture)
			stream->epoch = 0; /* what its process says elsewhere is no part of what a capture has of it */
		if (has_hole(stream))
			break_tls(key);
		stream->process.capture = capture;
		return stream;
	}
	open_tls(key, capture, 0, 1);
	return bpf_map_lookup_elem(&tls_streams, key);
}

/* Something was done to an SSL by a process that is nobody's target. If it was one before (it has left a cgroup, say) and becomes one again,
 * what it says then does not follow what it said: the stream breaks with its next event. */
static __noinline int leave_hole(u64 ssl)
{
	struct process process;
	struct tls_key key;
	current_process(&process, 0);
	key_of(&key, ssl, &process);
	struct stream *stream = bpf_map_lookup_elem(&tls_streams, &key);
	if (stream)
		stream->epoch = 0;
	return 0;
}

/* The innermost TLS call that the thread is in. One that began before probes were taken off may have returned unseen. */
static __always_inline struct frame *current_call(void)
{
	u64 thread = bpf_get_current_pid_tgid();
	struct frames *all = bpf_map_lookup_elem(&frames, &thread);
	if (!all || !all->depth || all->depth > FRAMES_MAX)
		return 0;
	struct frame *frame = &all->frame[(all->depth - 1) & (FRAMES_MAX - 1)];
	return frame->epoch == current_epoch() ? frame : 0;
}

static __always_inline int direction_of(u32 call)
{
	if (call == TLS_READ || call == TLS_READ_EX || call == TLS_READ_EARLY)
		return DIRECTION_READ;
	if (call == TLS_WRITE || call == TLS_WRITE_EX || call == TLS_WRITE_EX2 || call == TLS_WRITE_EARLY || call == TLS_SENDFILE)
		return DIRECTION_WRITE;
	return -1;
}

/* The capture whose target calls a function, 0 for none. */
static __always_inline u32 capture_of_caller(struct pt_regs *ctx)
{
	if (!is_on(ctx))
		return 0;
	u32 capture = capture_of_current();
	if (!capture && direction_of(CALL_OF(bpf_get_attach_cookie(ctx))) >= 0)
		leave_hole(PT_REGS_PARM1(ctx));
	return capture;
}

/* A call was left without a return (longjmp, a missed uretprobe). What it carried is unknown, so what follows is another
 * stream, whose start is unknown. */
static __noinline int abandon(struct frame *frame)
{
	if (!frame || frame->left)
		return 0;
	frame->left = 1;
	count(COUNT_CALLS_UNRETURNED, 1);
	if (direction_of(frame->call) >= 0)
		break_tls(&frame->key);
	return 0;
}

/* Drops the frames of calls that were left: a stack frame that still runs lies above the current stack pointer. So it drops those of another
 * epoch, wherever they lie: they may have returned unseen. Returns how many are left, or -1 where the top one is of this very call: a library
 * that is probed by two inodes of an overlay tells of a call twice. */
static __always_inline int drop_abandoned(struct frames *all, u64 stack_pointer, u64 ssl, u64 buffer, u64 cookie)
{
	u32 depth = all->depth, epoch = current_epoch();
	for (int i = 0; i < FRAMES_MAX; i++) {
		if (!depth || depth > FRAMES_MAX)
			break;
		struct frame *top = &all->frame[(depth - 1) & (FRAMES_MAX - 1)];
		bool current = top->epoch == epoch;
		if (current && top->stack_pointer > stack_pointer)
			break;
		if (current && top->stack_pointer == stack_pointer) {
			if (top->key.ssl == ssl && top->call == CALL_OF(cookie) && top->attachment != ATTACHMENT_OF(cookie))
				return -1;
			/* The last act of SSL_connect is to jump to SSL_do_handshake, that of SSL_write_ex to SSL_write_ex2. */
			bool same_bytes = top->key.ssl == ssl && top->buffer == buffer;
			if (direction_of(top->call) < 0 || (same_bytes && top->call == TLS_WRITE_EX && CALL_OF(cookie) == TLS_WRITE_EX2))
				top->left = 1;
		}
		abandon(top);
		depth--;
	}
	return depth;
}

static __always_inline int enter_tls(struct pt_regs *ctx, u32 capture)
{
	u64 thread = bpf_get_current_pid_tgid();
	struct frames *all = bpf_map_lookup_elem(&frames, &thread);
	if (!all) {
		u32 zero = 0;
		struct frames *none = bpf_map_lookup_elem(&no_frames, &zero);
		if (none)
			bpf_map_update_elem(&frames, &thread, none, BPF_ANY);
		all = bpf_map_lookup_elem(&frames, &thread);
	}
	u64 stack_pointer = PT_REGS_SP(ctx);
	u64 cookie = bpf_get_attach_cookie(ctx);
	struct process process;
	current_process(&process, capture);
	struct tls_key key;
	key_of(&key, PT_REGS_PARM1(ctx), &process);
	int depth = all ? drop_abandoned(all, stack_pointer, key.ssl, PT_REGS_PARM2(ctx), cookie) : FRAMES_MAX;
	if (depth < 0)
		return 0;
	if (!all || depth >= FRAMES_MAX) {
		count(COUNT_CALLS_UNTRACKED, 1);
		if (direction_of(CALL_OF(cookie)) >= 0)
			break_tls(&key);
		return 0;
	}
	struct frame *frame = &all->frame[depth & (FRAMES_MAX - 1)];
	frame->key = key;
	frame->buffer = PT_REGS_PARM2(ctx);
	frame->count = PT_REGS_PARM3(ctx);
	if (CALL_OF(cookie) == TLS_READ || CALL_OF(cookie) == TLS_WRITE)
		frame->count = (u32)frame->count; /* an int: the rest of the register may hold anything */
	u64 fifth = PT_REGS_PARM5(ctx);
	asm volatile("" : "+r"(fifth)); /* else one of two places in ctx is read, and the verifier wants constant ones */
	frame->length_pointer = CALL_OF(cookie) == TLS_WRITE_EX2 ? fifth : PT_REGS_PARM4(ctx);
	frame->stack_pointer = stack_pointer;
	frame->time = bpf_ktime_get_ns();
	frame->carried = 0;
	frame->left = 0;
	frame->call = CALL_OF(cookie);
	frame->early = frame->call == TLS_READ_EARLY || frame->call == TLS_WRITE_EARLY;
	frame->attachment = ATTACHMENT_OF(cookie);
	frame->epoch = current_epoch();
	all->depth = depth + 1;
	return 0;
}

/* How many bytes a call carried. */
static __always_inline u64 length_of(const struct frame *frame, u64 result)
{
	u64 length = 0;
	switch (frame->call) {
	case TLS_READ:
	case TLS_WRITE:
		return (s32)result > 0 ? (u32)result : 0;
	case TLS_READ_EX:
	case TLS_WRITE_EX:
	case TLS_WRITE_EX2:
	case TLS_WRITE_EARLY:
		if ((s32)result == 1)
			bpf_probe_read_user(&length, sizeof(length), (void *)frame->length_pointer);
		return length;
	case TLS_READ_EARLY:
		if ((s32)result == 1 || (s32)result == 2)
			bpf_probe_read_user(&length, sizeof(length), (void *)frame->length_pointer);
		return length;
	case TLS_SENDFILE:
		return (s64)result > 0 ? result : 0;
	}
	return 0;
}

/* Whether a TLS call is known to be on a socket: none is that of a program's own function of the same name, whose first argument is no SSL. */
static __always_inline bool is_bound(struct tls_key *key)
{
	struct stream *stream = bpf_map_lookup_elem(&tls_streams, key);
	return stream && stream->socket.method;
}

/* Looks at the calls further out that carry bytes in the same direction. One whose buffer holds these bytes is built on this call, as SSL_read_ex
 * of AWS-LC and LibreSSL on SSL_read: it returns with them once more. No function is built on itself, but on its like in another file, as in a
 * shim: another one was left, by a longjmp to a place that is further in. (Node writes within a read, when that has ended the handshake.) What a
 * program passes on by a function of such a name may call its SSL by another pointer; TLS within TLS has buffers of its own, and its socket. */
static __noinline int note_carried(struct frames *all, struct frame *inner, u32 depth, u64 length)
{
	if (!all || !inner)
		return 0;
	for (u32 i = 0; i < FRAMES_MAX; i++) {
		if (i >= depth)
			break;
		struct frame *outer = &all->frame[i];
		if (direction_of(outer->call) != direction_of(inner->call))
			continue;
		u64 offset = inner->buffer - outer->buffer;
		bool same_bytes = offset <= outer->count && length <= outer->count - offset;
		bool same_ssl = outer->key.ssl == inner->key.ssl;
		bool itself = outer->call == inner->call && outer->attachment == inner->attachment;
		if (same_bytes && (same_ssl ? !itself : !is_bound(&outer->key))) {
			outer->carried += length;
			inner->early |= outer->early;
		} else if (same_ssl) {
			abandon(outer);
		}
	}
	return 0;
}

/* What a client says early may be refused. The client is told when it asks, and says it again: until it was told that all was accepted, the
 * next that is said or heard belongs to a stream whose start is unknown. What a server writes before the handshake has ended cannot be refused.
 * Returns 1 for bytes that were carried already. */
static __noinline int place_early(struct frame *frame, struct stream *stream, int direction)
{
	if (!frame || !stream || stream->early == EARLY_READ)
		return 0;
	u8 before = stream->early;
	if (!frame->early && before)
		break_tls(&frame->key);
	else if (frame->early && direction == DIRECTION_WRITE)
		stream->early = EARLY_SENT;
	return before == EARLY_UNFLUSHED && frame->call == TLS_WRITE_EARLY;
}

#define SSL_READ_EARLY_DATA_ERROR 0
#define SSL_EARLY_DATA_ACCEPTED 2

/* Learns from a call's result what becomes of early data. That it was refused is also said of what was not answered yet. */
static __noinline int settle_early(struct frame *frame, u32 result)
{
	struct stream *stream = frame ? bpf_map_lookup_elem(&tls_streams, &frame->key) : 0;
	if (!stream)
		return 0;
	if (frame->call == TLS_READ_EARLY && result != SSL_READ_EARLY_DATA_ERROR)
		stream->early = EARLY_READ;
	if (frame->call == TLS_WRITE_EARLY && result != 1 && frame->carried)
		stream->early = EARLY_UNFLUSHED;
	if (frame->call == TLS_EARLY_STATUS && result == SSL_EARLY_DATA_ACCEPTED && stream->early != EARLY_READ)
		stream->early = EARLY_NONE;
	return 0;
}

/* Emits what a call carried, but for the first bytes, where a call that it is built on did. */
static __noinline int emit_tls(struct frame *frame, u64 length, u32 capture)
{
	struct stream *stream = tls_stream(&frame->key, capture);
	if (!stream)
		return lose_unattributed(capture, length);
	int direction = direction_of(frame->call);
	if ((frame->early || stream->early) && place_early(frame, stream, direction))
		return 0;
	announce(stream, frame->key.ssl);
	if (frame->call == TLS_SENDFILE)
		return emit_gap(stream, DIRECTION_WRITE, length);
	struct emission e = {
		/* A request is as old as the call that sent it; a response is here when the call returns. */
		.time = direction == DIRECTION_WRITE ? frame->time : bpf_ktime_get_ns(),
		.address = frame->buffer + frame->carried,
		.left = length,
		.remaining = length,
		.direction = direction,
		.source = SOURCE_TLS,
	};
	return emit(stream, &e);
}

#define SSL_ERROR_SSL 1
#define SSL_ERROR_SYSCALL 5
#define SSL_ERROR_ZERO_RETURN 6

/* Whether the TLS library itself has read the end of the TCP connection that carries a stream (see leave_call). */
static __always_inline bool carrier_has_ended(struct stream *stream)
{
	u64 sock = stream->sock;
	struct stream *carrier = sock ? bpf_map_lookup_elem(&sockets, &sock) : 0;
	return carrier && carrier->socket.inode == stream->socket.inode && carrier->read_ended;
}

/* A call carried nothing, and the program asks why: the peer said close_notify, or hung up without (which OpenSSL 3 calls
 * SSL_ERROR_SSL, and before SSL_ERROR_SYSCALL). SSL_read_ex itself does not tell this from "come again". These two errors have many
 * other causes, such as a corrupt record: they tell of an end only when the library has met that of the connection, and no more after an
 * SSL_ERROR_SSL of another cause. */
static __noinline int tell_error(struct tls_key *key, u32 error)
{
	struct stream *stream = bpf_map_lookup_elem(&tls_streams, key);
	if (!stream || !stream->announced || has_hole(stream))
		return 0;
	bool hung_up = (error == SSL_ERROR_SSL || error == SSL_ERROR_SYSCALL) && !stream->failed && carrier_has_ended(stream);
	if (error == SSL_ERROR_ZERO_RETURN || hung_up)
		tell_read_ended(stream);
	else if (error == SSL_ERROR_SSL)
		stream->failed = 1;
	return 0;
}

static __always_inline int return_tls(struct pt_regs *ctx)
{
	if (!is_on(ctx))
		return 0;
	u64 thread = bpf_get_current_pid_tgid();
	struct frames *all = bpf_map_lookup_elem(&frames, &thread);
	if (!all)
		return 0;
	u64 stack_pointer = PT_REGS_SP(ctx) - RETURN_POPS;
	u32 depth = all->depth;
	for (int i = 0; i < FRAMES_MAX; i++) {
		if (!depth || depth > FRAMES_MAX)
			return 0;
		struct frame *top = &all->frame[(depth - 1) & (FRAMES_MAX - 1)];
		if (top->stack_pointer > stack_pointer)
			return 0; /* the second probe of a call that is done */
		depth--;
		if (top->stack_pointer == stack_pointer)
			break;
		abandon(top);
	}
	struct frame *frame = &all->frame[depth & (FRAMES_MAX - 1)];
	/* Another attachment's frame: it tells of this return itself, or the call is another one, whose entry was not listened to. */
	if (frame->stack_pointer != stack_pointer || frame->attachment != ATTACHMENT_OF(bpf_get_attach_cookie(ctx)))
		return 0;
	if (frame->call == TLS_ERROR)
		tell_error(&frame->key, PT_REGS_RC(ctx));
	if (frame->call == TLS_READ_EARLY || frame->call == TLS_WRITE_EARLY || frame->call == TLS_EARLY_STATUS)
		settle_early(frame, PT_REGS_RC(ctx));
	u64 length = length_of(frame, PT_REGS_RC(ctx));
	u32 capture = length ? capture_of_current() : 0;
	if (capture) {
		note_carried(all, frame, depth, length);
		if (length > frame->carried)
			emit_tls(frame, length - frame->carried, capture);
	} else if (length) {
		break_tls(&frame->key); /* it is a target no more, and may be one again */
	}
	all->depth = depth;
	if (!depth)
		bpf_map_delete_elem(&frames, &thread);
	return 0;
}

SEC("uprobe")
int tls_enter(struct pt_regs *ctx)
{
	u32 capture = capture_of_caller(ctx);
	return capture ? enter_tls(ctx, capture) : 0;
}

SEC("uretprobe")
int tls_return(struct pt_regs *ctx)
{
	return return_tls(ctx);
}

SEC("uprobe")
int tls_session(struct pt_regs *ctx)
{
	if (is_return(ctx))
		return return_tls(ctx);
	u32 capture = capture_of_caller(ctx);
	if (!capture)
		return SPARE_RETURN;
	enter_tls(ctx, capture);
	return PROBE_RETURN;
}

/* Begins a generation: what is heard of this pointer from now on has nothing to do with what was heard before. */
static __always_inline void begin_tls(struct tls_key *key, u32 capture, u32 references)
{
	end_tls(key);
	bpf_map_delete_elem(&tls_streams, key); /* one whose end found no room: its bytes stay in the totals */
	open_tls(key, capture, 1, references);
}

static __always_inline int return_new(struct pt_regs *ctx)
{
	if (!is_on(ctx))
		return 0;
	u32 capture = capture_of_current();
	u64 ssl = PT_REGS_RC(ctx);
	if (!capture || !ssl)
		return 0;
	struct process process;
	struct tls_key key;
	current_process(&process, capture);
	key_of(&key, ssl, &process);
	begin_tls(&key, capture, 1);
	return 0;
}

SEC("uretprobe")
int tls_new(struct pt_regs *ctx)
{
	return return_new(ctx);
}

SEC("uprobe")
int tls_new_session(struct pt_regs *ctx)
{
	if (is_return(ctx))
		return return_new(ctx);
	return capture_of_current() ? PROBE_RETURN : SPARE_RETURN;
}

SEC("uprobe")
int tls_clear(struct pt_regs *ctx)
{
	if (!is_on(ctx))
		return 0;
	u32 capture = capture_of_current();
	if (!capture)
		return leave_hole(PT_REGS_PARM1(ctx));
	struct process process;
	struct tls_key key;
	current_process(&process, capture);
	key_of(&key, PT_REGS_PARM1(ctx), &process);
	struct stream *stream = bpf_map_lookup_elem(&tls_streams, &key);
	begin_tls(&key, capture, stream ? stream->references : 1);
	return 0;
}

static __always_inline struct stream *existing_stream(struct pt_regs *ctx, struct tls_key *key)
{
	if (!is_on(ctx))
		return 0;
	u32 capture = capture_of_current();
	if (!capture) {
		leave_hole(PT_REGS_PARM1(ctx));
		return 0;
	}
	struct process process;
	current_process(&process, capture);
	key_of(key, PT_REGS_PARM1(ctx), &process);
	return bpf_map_lookup_elem(&tls_streams, key);
}

SEC("uprobe")
int tls_up_ref(struct pt_regs *ctx)
{
	struct tls_key key;
	struct stream *stream = existing_stream(ctx, &key);
	if (stream)
		__sync_fetch_and_add(&stream->references, 1);
	return 0;
}

SEC("uprobe")
int tls_free(struct pt_regs *ctx)
{
	struct tls_key key;
	struct stream *stream = existing_stream(ctx, &key);
	if (stream && __sync_fetch_and_add(&stream->references, -1) <= 1)
		end_tls(&key);
	return 0;
}

/* Reads the ciphertext tag of a TLS record: the random of a hello (a handshake record's first 11 bytes are lengths and
 * types, much alike), else the first bytes of the ciphertext. RFC 8446 section 5.1 and 4.1.2. */
static __noinline int read_tag(struct tag *tag, u64 address, u64 length)
{
	u8 record[6];
	if (length < 35 || bpf_probe_read_user(record, sizeof(record), (void *)address))
		return 0;
	if (record[0] < 20 || record[0] > 23 || record[1] != 3)
		return 0;
	tag->tgid = bpf_get_current_pid_tgid() >> 32;
	return !bpf_probe_read_user(tag->bytes, TAG_LENGTH, (void *)(address + (record[0] == 22 ? 11 : 5)));
}

SEC("uprobe")
int bio_write(struct pt_regs *ctx)
{
	struct frame *frame = is_on(ctx) ? current_call() : 0;
	if (!frame)
		return 0;
	struct tls_key key = frame->key;
	struct stream *stream = bpf_map_lookup_elem(&tls_streams, &key);
	if (stream && stream->socket.method && !has_hole(stream))
		return 0;
	struct tag tag;
	if (read_tag(&tag, PT_REGS_PARM2(ctx), (u32)PT_REGS_PARM3(ctx)))
		bpf_map_update_elem(&tags, &tag, &key, BPF_ANY);
	return 0;
}
