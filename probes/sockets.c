/* TCP sockets, by the system calls that read and write them.
 *
 * The socket is the stream, not the descriptor: descriptors are shared by forks and reused at once. So a call's socket is looked
 * up when the call begins, while its descriptor must be valid, and its bytes are taken when it returns. Whether a socket carries
 * TLS shows in its bytes, when it begins or later (STARTTLS): from then on only the hellos are carried. A TLS stream is bound to a socket
 * (a) by a call nested in the TLS library's, on a socket that speaks TLS, or (b) by the ciphertext tag. */

static __always_inline void read_facts(struct socket_facts *facts, struct sock *sk)
{
	facts->family = BPF_CORE_READ(sk, __sk_common.skc_family);
	facts->local_port = BPF_CORE_READ(sk, __sk_common.skc_num);
	facts->remote_port = __builtin_bswap16(BPF_CORE_READ(sk, __sk_common.skc_dport));
	if (facts->family == AF_INET) {
		u32 local = BPF_CORE_READ(sk, __sk_common.skc_rcv_saddr);
		u32 remote = BPF_CORE_READ(sk, __sk_common.skc_daddr);
		__builtin_memcpy(facts->local, &local, sizeof(local));
		__builtin_memcpy(facts->remote, &remote, sizeof(remote));
	} else {
		BPF_CORE_READ_INTO(&facts->local, sk, __sk_common.skc_v6_rcv_saddr);
		BPF_CORE_READ_INTO(&facts->remote, sk, __sk_common.skc_v6_daddr);
	}
}

static __always_inline struct file *file_of(int fd)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct fdtable *table = BPF_CORE_READ(task, files, fdt);
	if (fd < 0 || (u32)fd >= BPF_CORE_READ(table, max_fds))
		return 0;
	struct file **files = BPF_CORE_READ(table, fd);
	struct file *file = 0;
	bpf_probe_read_kernel(&file, sizeof(file), files + fd);
	return file;
}

/* The TCP socket behind a descriptor, and its inode; 0 for anything else. */
static __noinline struct sock *tcp_socket(int fd, struct socket_facts *facts)
{
	struct file *file = file_of(fd);
	if (!file || !facts)
		return 0;
	struct inode *inode = BPF_CORE_READ(file, f_inode);
	if ((BPF_CORE_READ(inode, i_mode) & S_IFMT) != S_IFSOCK)
		return 0;
	struct socket *socket = BPF_CORE_READ(file, private_data);
	struct sock *sk = BPF_CORE_READ(socket, sk);
	u16 family = BPF_CORE_READ(sk, __sk_common.skc_family);
	if ((family != AF_INET && family != AF_INET6) || BPF_CORE_READ(sk, sk_type) != SOCK_STREAM)
		return 0;
	facts->inode = BPF_CORE_READ(inode, i_ino);
	return sk;
}

static __noinline int open_socket(u64 sock, const struct socket_facts *facts, u32 capture, u8 start_known)
{
	struct stream stream = {
		.id = next_stream_id(),
		.source = SOURCE_SOCKET,
		.start_known = start_known,
	};
	current_process(&stream.process, capture);
	stream.socket = *facts;
	stream.socket.method = BOUND_SOCKET;
	bpf_map_update_elem(&sockets, &sock, &stream, BPF_NOEXIST);
	return 0;
}

static __noinline int end_socket(u64 sock)
{
	struct stream *stream = bpf_map_lookup_elem(&sockets, &sock);
	if (stream) {
		tell_closed(stream);
		bpf_map_delete_elem(&sockets, &sock);
	}
	return 0;
}

/* The stream of a socket. The kernel reuses a struct sock; the inode tells. */
static __noinline struct stream *socket_stream(u64 sock, const struct socket_facts *facts, u32 capture)
{
	struct stream *stream = bpf_map_lookup_elem(&sockets, &sock);
	if (stream && stream->socket.inode == facts->inode)
		return stream;
	if (stream)
		end_socket(sock);
	open_socket(sock, facts, capture, 0);
	return bpf_map_lookup_elem(&sockets, &sock);
}

static __always_inline u8 state_of(struct sock *sk)
{
	return BPF_CORE_READ(sk, __sk_common.skc_state);
}

/* A socket of whose life nothing was missed. */
static __always_inline void begin_socket(int fd, u8 role, u32 capture)
{
	struct socket_facts facts = {};
	struct sock *sk = tcp_socket(fd, &facts);
	if (!sk)
		return;
	struct stream *stream = bpf_map_lookup_elem(&sockets, &sk);
	if (stream && stream->socket.inode == facts.inode)
		return; /* connect() called again to learn how it went */
	if (stream)
		end_socket((u64)sk);
	read_facts(&facts, sk);
	facts.role = role;
	open_socket((u64)sk, &facts, capture, 1);
	reconcile(bpf_map_lookup_elem(&sockets, &sk), sk, state_of(sk));
}

/* The flags of a call that has some: MSG_PEEK and the like. */
static __always_inline u32 call_flags(u32 number, struct pt_regs *regs)
{
	switch (number) {
	case SYS_sendto:
	case SYS_recvfrom:
	case SYS_sendmmsg:
	case SYS_recvmmsg:
		return SYSCALL_ARGUMENT_4(regs);
	case SYS_sendmsg:
	case SYS_recvmsg:
		return SYSCALL_ARGUMENT_3(regs);
	}
	return 0;
}

/* MSG_TRUNC takes bytes of TCP without storing them. Urgent ones (MSG_OOB) are not where they would be read in order. */
static __always_inline u32 shape_of(u32 number, u32 flags)
{
	if (flags & (MSG_TRUNC | MSG_OOB | MSG_SOCK_DEVMEM))
		return number == SYS_sendmmsg || number == SYS_recvmmsg ? SHAPE_MESSAGES : SHAPE_UNREADABLE;
	switch (number) {
	case SYS_readv:
	case SYS_writev:
	case SYS_preadv2:
	case SYS_pwritev2:
	case SYS_sendmsg:
	case SYS_recvmsg:
		return SHAPE_VECTOR;
	case SYS_sendmmsg:
	case SYS_recvmmsg:
		return SHAPE_MESSAGES;
	case SYS_sendfile:
	case SYS_splice:
		return SHAPE_UNREADABLE;
	}
	return SHAPE_BUFFER;
}

static __always_inline int call_direction(u32 number)
{
	switch (number) {
	case SYS_read:
	case SYS_readv:
	case SYS_recvfrom:
	case SYS_recvmsg:
	case SYS_recvmmsg:
	case SYS_preadv2:
	case SYS_splice:
		return DIRECTION_READ;
	}
	return DIRECTION_WRITE;
}

/* Apart from note_call, for the sake of the stack. */
static __noinline int begin_call(u64 sock, u64 inode, u8 direction)
{
	struct stream *stream = bpf_map_lookup_elem(&sockets, &sock);
	if (!stream || stream->socket.inode != inode)
		return 0;
	reconcile(stream, (struct sock *)sock, state_of((struct sock *)sock));
	__sync_fetch_and_add(&stream->active[direction & 1], 1);
	__sync_fetch_and_add(&stream->entered[direction & 1], 1);
	return 1;
}

/* A call that is not followed for want of room is what other ways to move bytes are: the kernel's count tells what it moved. Where that does
 * not, what follows is another stream, whose start is unknown. */
static __noinline int leave_out_call(u64 sock, u8 direction)
{
	struct stream *stream = bpf_map_lookup_elem(&sockets, &sock);
	if (!stream)
		return 0;
	__sync_fetch_and_add(&stream->active[direction & 1], -1);
	if (!stream->encrypted && !is_counted((struct sock *)sock))
		end_socket(sock);
	return 0;
}

/* Notes a call that is to be looked at when it returns. */
static __noinline int note_call(struct pt_regs *regs, u32 number, int fd)
{
	u32 flags = call_flags(number, regs);
	if (flags & (MSG_PEEK | MSG_ERRQUEUE))
		return 0; /* looks only */
	struct call call = { .number = number, .time = bpf_ktime_get_ns(), .shape = shape_of(number, flags) };
	call.sock = (u64)tcp_socket(fd, &call.facts);
	if (!call.sock)
		return 0;
	call.buffer = SYSCALL_ARGUMENT_2(regs);
	call.count = SYSCALL_ARGUMENT_3(regs);
	if (number == SYS_sendmsg || number == SYS_recvmsg) {
		u64 message[2] = {}; /* struct msghdr: msg_iov at 16, msg_iovlen at 24 */
		bpf_probe_read_user(message, sizeof(message), (void *)(call.buffer + 16));
		call.buffer = message[0];
		call.count = message[1];
	}
	call.counted = begin_call(call.sock, call.facts.inode, call_direction(number));
	u64 thread = bpf_get_current_pid_tgid();
	if (!bpf_map_update_elem(&calls, &thread, &call, BPF_ANY))
		return 0;
	count(COUNT_CALLS_UNTRACKED, 1);
	if (call.counted)
		leave_out_call(call.sock, call_direction(number));
	return 0;
}

static __always_inline bool compat_task(void)
{
#if defined(__TARGET_ARCH_x86)
	/* 32-bit system calls have other numbers. */
	struct task_struct *task = (void *)bpf_get_current_task();
	return BPF_CORE_READ(task, thread_info.status) & TS_COMPAT;
#else
	return false;
#endif
}

/* Whether a system call may move bytes of a socket. Every call of every process is asked this first: maps cost more. */
static __always_inline bool carries_bytes(u32 number)
{
	switch (number) {
	case SYS_read:
	case SYS_write:
	case SYS_readv:
	case SYS_writev:
	case SYS_sendto:
	case SYS_recvfrom:
	case SYS_sendmsg:
	case SYS_recvmsg:
	case SYS_sendmmsg:
	case SYS_recvmmsg:
	case SYS_preadv2:
	case SYS_pwritev2:
	case SYS_sendfile:
	case SYS_splice:
		return true;
	}
	return false;
}

SEC("raw_tp/sys_enter")
int syscall_enter(struct bpf_raw_tracepoint_args *ctx)
{
	struct pt_regs *regs = (struct pt_regs *)ctx->args[0];
	u32 number = ctx->args[1];
	if (!carries_bytes(number) || !capture_of_current() || compat_task())
		return 0;
	int fd = SYSCALL_ARGUMENT_1(regs);
	if (number == SYS_splice) { /* of the two descriptors, one is a pipe */
		int out = SYSCALL_ARGUMENT_3(regs);
		struct socket_facts facts = {};
		if (tcp_socket(out, &facts))
			return note_call(regs, SYS_sendfile, out);
	}
	return note_call(regs, number, fd);
}

/* Whether bytes open a TLS record (RFC 8446 section 5.1): of a handshake, which every TLS connection begins with; or of any type,
 * where the beginning was not seen. */
static __always_inline bool opens_tls(u64 address, u64 length, bool start_known)
{
	u8 head[5];
	if (length < sizeof(head) || bpf_probe_read_user(head, sizeof(head), (void *)address))
		return false;
	u32 record = ((u32)head[3] << 8) | head[4];
	bool type = head[0] == 22 || (!start_known && head[0] >= 20 && head[0] <= 23);
	return type && head[1] == 3 && head[2] <= 4 && record > 0 && record <= CHUNK_MAX + 2048;
}

/* Whether bytes read like text: of ciphertext, one in 2,000 does. */
static __always_inline bool reads_like_text(u64 address, u64 length)
{
	u8 head[8];
	if (length < sizeof(head) || bpf_probe_read_user(head, sizeof(head), (void *)address))
		return false;
	for (int i = 0; i < 8; i++)
		if ((head[i] < ' ' || head[i] > '~') && head[i] != '\r' && head[i] != '\n')
			return false;
	return true;
}

/* Whether the thread is inside a call of a TLS library: what it reads and writes there is not plaintext. */
static __always_inline bool inside_tls_call(void)
{
	return current_call() != 0;
}

/* Handshake messages (RFC 8446 section 4): their types, and the length of a ServerHello without session and extensions, the shorter one. */
#define CLIENT_HELLO 1
#define SERVER_HELLO 2
#define HELLO_LEAST 38
#define WORD_CONNECT 0x205443454e4e4f43 /* "CONNECT " */

enum opening {
	OPENS_OTHERWISE,
	OPENS_TUNNEL, /* a request for one */
	OPENS_RECORD, /* of a handshake, as the following ones */
	OPENS_RECORD_HEAD, /* alone */
	OPENS_CLIENT_HELLO,
	OPENS_SERVER_HELLO,
};

/* Whether a record begins with a hello of a type: one handshake message that the record holds (RFC 8446 section 4). */
static __always_inline bool holds_hello(const u8 *message, u8 type, u64 room)
{
	u32 length = ((u32)message[1] << 16) | ((u32)message[2] << 8) | message[3];
	return message[0] == type && length >= HELLO_LEAST && length + 4 <= room && message[4] == 3 && message[5] <= 3;
}

/* Whether a call's bytes are a ClientHello whose record's head was read before. */
static __always_inline bool goes_on_as_hello(u64 address, u64 length)
{
	u8 message[6];
	if (length < sizeof(message) || bpf_probe_read_user(message, sizeof(message), (void *)address))
		return false;
	return holds_hello(message, CLIENT_HELLO, length);
}

/* What a call's first bytes are, as far as they tell that TLS begins. */
static __always_inline enum opening opening_of(u64 address, u64 length)
{
	u64 words[2] = {};
	u8 *head = (u8 *)words;
	if (length < 5 || bpf_probe_read_user(head, length < 8 ? 5 : 8, (void *)address))
		return OPENS_OTHERWISE;
	if (words[0] == WORD_CONNECT)
		return OPENS_TUNNEL;
	u32 record = ((u32)head[3] << 8) | head[4];
	if (head[0] != 22 || head[1] != 3 || head[2] > 4 || !record || record > CHUNK_MAX)
		return OPENS_OTHERWISE;
	if (length == 5)
		return OPENS_RECORD_HEAD;
	if (length < 11 || bpf_probe_read_user(head, 11, (void *)address))
		return OPENS_RECORD;
	if (holds_hello(head + 5, CLIENT_HELLO, record))
		return OPENS_CLIENT_HELLO;
	return holds_hello(head + 5, SERVER_HELLO, record) ? OPENS_SERVER_HELLO : OPENS_RECORD;
}

/* Whether the bytes are ciphertext of a library that is followed. */
static __always_inline bool is_followed(u64 address, u64 length, u8 direction)
{
	struct tag tag;
	return inside_tls_call() || (direction == DIRECTION_WRITE && read_tag(&tag, address, length) && bpf_map_lookup_elem(&tags, &tag));
}

/* Whether TLS begins on a socket that was plain so far (STARTTLS, a tunnel through a proxy). A body may hold anything, so that bytes look like a
 * record does not suffice: they come from a library that is followed, or from the client when its request for a tunnel was answered, or they
 * are what answers a ClientHello. */
static __noinline int starts_tls(struct stream *stream, u64 address, u64 length, u8 direction)
{
	u8 way = direction == DIRECTION_WRITE ? TURN_WRITE : TURN_READ;
	u8 turn = stream->turn;
	enum opening opening = opening_of(address, length);
	if (opening == OPENS_OTHERWISE && !turn)
		return 0;
	bool record = opening >= OPENS_RECORD;
	if (record && is_followed(address, length, direction))
		return 1;
	if (turn & ~way & TURN_WAYS) { /* the other side's */
		stream->turn = turn & TURN_TUNNEL ? turn | TURN_ANSWERED : 0;
		return turn & TURN_HELLO && (opening == OPENS_SERVER_HELLO || opening == OPENS_RECORD_HEAD);
	}
	if (stream->socket.role == (direction == DIRECTION_WRITE ? ROLE_SERVER : ROLE_CLIENT))
		return 0;
	if (record && turn & TURN_ANSWERED)
		return 1;
	if (opening == OPENS_TUNNEL)
		stream->turn = TURN_TUNNEL | way;
	else if (opening == OPENS_RECORD_HEAD)
		stream->turn = TURN_HEAD | way;
	else if (opening == OPENS_CLIENT_HELLO || (turn & TURN_HEAD && goes_on_as_hello(address, length)))
		stream->turn = TURN_HELLO | way;
	else if (turn & (TURN_HEAD | TURN_ANSWERED)) /* after the others, more of the same may come */
		stream->turn = 0;
	return 0;
}

/* Learns from a call's first bytes what a socket carries. One whose beginning was not seen may be joined in the middle of a TLS record:
 * it is plain only when it writes no record, for writes begin with one, or when it reads text. */
static __noinline int classify(struct stream *stream, u64 first, u64 length, u8 direction)
{
	if (stream->encrypted)
		return 0;
	if (!stream->plain && opens_tls(first, length, stream->start_known))
		stream->encrypted = 1;
	else if (!stream->plain && !stream->start_known && inside_tls_call())
		stream->encrypted = 1;
	else if (!stream->plain)
		stream->plain = stream->start_known || direction == DIRECTION_WRITE || reads_like_text(first, length);
	if (stream->plain)
		stream->encrypted = starts_tls(stream, first, length, direction);
	return 0;
}

static __noinline int bind_tls(struct tls_key *key, const struct call *call, u8 method, u32 capture)
{
	struct stream *stream = tls_stream(key, capture);
	if (!stream || stream->socket.method)
		return 0;
	struct stream *carrier = bpf_map_lookup_elem(&sockets, &call->sock);
	if (!carrier)
		return 0;
	stream->socket = carrier->socket;
	stream->socket.method = method;
	stream->sock = call->sock;
	if (!stream->announced)
		announce(stream, key->ssl);
	else
		tell_bound(stream);
	return 0;
}

static __noinline int bind_nested(const struct call *call, u32 capture)
{
	struct frame *frame = current_call();
	if (!frame)
		return 0;
	struct tls_key key = frame->key;
	return bind_tls(&key, call, BOUND_NESTED, capture);
}

/* Whether what is written is a TLS record that a library wrote into memory. */
static __noinline int bind_by_tag(const struct call *call, u64 address, u64 length, u32 capture)
{
	struct tag tag;
	if (!read_tag(&tag, address, length))
		return 0;
	struct tls_key *found = bpf_map_lookup_elem(&tags, &tag);
	if (!found)
		return 0;
	struct tls_key key = *found;
	bpf_map_delete_elem(&tags, &tag);
	bind_tls(&key, call, BOUND_CIPHERTEXT, capture);
	return 1;
}

/* Bytes that sendmmsg or recvmmsg carried. sendmmsg takes no more than UIO_MAXIOV messages. Not static: as emit_step(). */
__noinline u64 messages_length(u64 vector, u64 messages)
{
	u64 total = 0;
	for (u32 i = 0; i < UIO_MAXIOV; i++) {
		u32 length = 0;
		if (i >= messages)
			break;
		bpf_probe_read_user(&length, sizeof(length), (void *)(vector + i * 64 + 56)); /* struct mmsghdr.msg_len */
		total += length;
	}
	if (messages > UIO_MAXIOV)
		count(COUNT_CALLS_UNTRACKED, 1); /* of recvmmsg: the rest is not in the account */
	return total;
}

/* Whether a call asked for any bytes: one that asks for none yields none, whatever waits. Not static: as emit_step(). */
__noinline int asks_for_bytes(struct call *call)
{
	if (!call || call->shape != SHAPE_VECTOR)
		return call && call->count;
	for (u32 i = 0; i < UIO_MAXIOV; i++) {
		struct user_vector vector = {};
		if (i >= call->count)
			break;
		bpf_probe_read_user(&vector, sizeof(vector), (void *)(call->buffer + i * sizeof(vector)));
		if (vector.length)
			return 1;
	}
	return 0;
}

static __always_inline u64 first_segment(const struct call *call, u64 length, u64 *first_length)
{
	*first_length = length;
	if (call->shape != SHAPE_VECTOR)
		return call->buffer;
	struct user_vector vector = {};
	bpf_probe_read_user(&vector, sizeof(vector), (void *)call->buffer);
	if (vector.length < length)
		*first_length = vector.length;
	return vector.base;
}

/* Apart from emit_call, whose other callees need the room: before private stacks (Linux 6.13), 512 bytes have to do for a chain of calls. */
static __noinline int emit_bytes(struct stream *stream, const struct call *call, u64 length)
{
	struct emission e = {
		.remaining = length,
		.direction = call_direction(call->number),
		.source = stream->encrypted ? SOURCE_OPAQUE : SOURCE_SOCKET,
	};
	e.time = e.direction == DIRECTION_WRITE ? call->time : bpf_ktime_get_ns();
	if (call->shape == SHAPE_VECTOR) {
		e.vector = call->buffer;
		e.segments = call->count;
	} else {
		e.address = call->buffer;
		e.left = length;
	}
	return emit(stream, &e);
}

static __noinline int emit_call(struct stream *stream, struct call *call, u64 length, u32 capture)
{
	u8 direction = call_direction(call->number);
	if (call->shape == SHAPE_MESSAGES)
		length = messages_length(call->buffer, length);
	__sync_fetch_and_add(&stream->sequence[direction & 1], (u32)length);
	if (call->shape >= SHAPE_MESSAGES) {
		if (!stream->encrypted)
			return emit_gap(stream, direction, length);
		pass_opaque(stream, direction, length);
		return 0;
	}
	u64 first_length;
	u64 first = first_segment(call, length, &first_length);
	classify(stream, first, first_length, direction);
	if (!stream->encrypted && !stream->plain)
		return 0; /* before what is known of it begins */
	if (stream->encrypted) {
		u8 nested = inside_tls_call();
		if (nested) {
			stream->nested = 1;
			bind_nested(call, capture);
		}
		if (direction == DIRECTION_WRITE) {
			if (bind_by_tag(call, first, first_length, capture) && !nested)
				stream->tagged = 1;
			if (!nested && stream->nested && !stream->tagged)
				stream->bypassed = 1; /* as BIO_f_ssl, which reads and writes by inner functions */
		}
	}
	return emit_bytes(stream, call, length);
}

/* A read found the end of what the peer says. Of TLS, that is no end of the plaintext: see tell_error(). */
static __always_inline int meet_end(struct stream *stream)
{
	if (!stream->encrypted)
		return tell_read_ended(stream);
	if (inside_tls_call())
		stream->read_ended = 1;
	return 0;
}

static __noinline int leave_call(struct call *call, s64 result)
{
	u32 capture = capture_of_current();
	if (!capture)
		return 0;
	struct sock *sk = (struct sock *)call->sock;
	struct stream *stream = bpf_map_lookup_elem(&sockets, &call->sock);
	if (!stream || stream->socket.inode != call->facts.inode) {
		if (result <= 0)
			return 0;
		read_facts(&call->facts, sk);
		if (!call->facts.remote_port) {
			count(COUNT_CALLS_UNTRACKED, 1); /* closed before it was looked at: whether it carried TLS is not known */
			return 0;
		}
		stream = socket_stream(call->sock, &call->facts, capture);
		if (!stream)
			return lose_unattributed(capture, result);
	}
	announce(stream, call->sock);
	if (result > 0)
		return emit_call(stream, call, result, capture);
	if (result == 0 && call_direction(call->number) == DIRECTION_READ && asks_for_bytes(call) && all_was_read(sk))
		return meet_end(stream);
	return 0;
}

static __noinline int end_call(struct call *call)
{
	u64 sock = call->sock;
	struct stream *stream = bpf_map_lookup_elem(&sockets, &sock);
	if (!stream || stream->socket.inode != call->facts.inode)
		return 0;
	if (call->counted)
		__sync_fetch_and_add(&stream->active[call_direction(call->number) & 1], -1);
	return reconcile(stream, (struct sock *)sock, state_of((struct sock *)sock));
}

SEC("raw_tp/sys_exit")
int syscall_exit(struct bpf_raw_tracepoint_args *ctx)
{
	struct pt_regs *regs = (struct pt_regs *)ctx->args[0];
	s64 result = ctx->args[1];
	u32 number = SYSCALL_NUMBER(regs);
	if (carries_bytes(number)) {
		u64 thread = bpf_get_current_pid_tgid();
		struct call *call = bpf_map_lookup_elem(&calls, &thread);
		if (!call)
			return 0;
		leave_call(call, result); /* nobody but this thread touches its entry */
		end_call(call);
		bpf_map_delete_elem(&calls, &thread);
		return 0;
	}
	if (number != SYS_connect && number != SYS_accept && number != SYS_accept4 && number != SYS_mmap)
		return 0;
	u32 capture = capture_of_current();
	if (!capture || compat_task())
		return 0;
	if (number == SYS_mmap) {
		/* Addresses are positive, errors -4095 to -1. */
		if (result > 0 && SYSCALL_ARGUMENT_3(regs) & PROT_EXEC && (int)SYSCALL_ARGUMENT_5(regs) >= 0)
			tell_mapped(file_of(SYSCALL_ARGUMENT_5(regs)), SYSCALL_ARGUMENT_5(regs), capture);
	} else if (number == SYS_connect) {
		if (result == 0 || result == -EINPROGRESS)
			begin_socket(SYSCALL_ARGUMENT_1(regs), ROLE_CLIENT, capture);
	} else if (result >= 0) {
		begin_socket(result, ROLE_SERVER, capture);
	}
	return 0;
}

/* Where a socket's stream ends: not when its TCP connection does (TCP_CLOSE), for what came before waits to be read still, but when
 * the socket is destroyed, which is when its last descriptor is closed or later. The two programs run for whatever task a packet
 * interrupted: only sockets that are known already count. */
SEC("raw_tp/tcp_destroy_sock")
int socket_destroyed(struct bpf_raw_tracepoint_args *ctx)
{
	return end_socket(ctx->args[0]);
}

/* Two ends that tcp_destroy_sock does not tell: a socket that connects anew, and MPTCP's, whose last change of state comes after its
 * last descriptor has let go of it. */
SEC("raw_tp/inet_sock_set_state")
int socket_state(struct bpf_raw_tracepoint_args *ctx)
{
	struct sock *sk = (void *)ctx->args[0];
	u64 state = ctx->args[2];
	struct stream *stream = bpf_map_lookup_elem(&sockets, &sk);
	if (stream) /* before a FIN of ours counts, or a reset; and when the counts of a connection begin */
		reconcile(stream, sk, state == TCP_ESTABLISHED ? state : state_of(sk));
	if (state == TCP_SYN_SENT || (state == TCP_CLOSE && !BPF_CORE_READ(sk, sk_socket, sk)))
		end_socket((u64)sk);
	return 0;
}
