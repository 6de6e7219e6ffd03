/* Every map, with its bound and the reason for it. Hash maps take memory only for what is in them. */
#ifndef UNDERSTUDY_MAPS_H
#define UNDERSTUDY_MAPS_H

#include "kernel.h"

/* The stream of events. The agent sets its size before loading. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 16 << 20);
} events SEC(".maps");

/* What was mapped and not yet examined. Apart from `events`, because its reader must not wait behind data: until a file is probed,
 * what is said through it is not seen. 64 KiB are 700 mappings. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 64 << 10);
} mappings SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct settings);
} settings SEC(".maps");

/* One entry and atomic additions, not one a CPU: a ledger must be exact, and uprobe programs can be preempted. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, COUNTERS);
	__type(key, u32);
	__type(value, u64);
} counters SEC(".maps");

/* Capture -> bytes of it that are in no stream's tally, for want of room in a map. An agent has 32 captures at once; this room is taken
 * beforehand, for what is counted here must not itself be lost. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, u32);
	__type(value, u64);
} unattributed SEC(".maps");

/* Cgroup id -> capture. One capture seldom has more than a few; 1024 serve a node's pods. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, u64);
	__type(value, u32);
} target_cgroups SEC(".maps");

/* Process -> capture, for captures of a process tree. Forks join in the kernel. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, u32);
	__type(value, u32);
} target_processes SEC(".maps");

/* Files that were examined: mapping them again is no news. A large image maps some hundreds of libraries. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct file_key);
	__type(value, u8);
} known_files SEC(".maps");

/* TLS streams: live SSL objects of all targets. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 131072);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct tls_key);
	__type(value, struct stream);
} tls_streams SEC(".maps");

/* TCP sockets of all targets, by struct sock *. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 131072);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, u64);
	__type(value, struct stream);
} sockets SEC(".maps");

/* A TLS call in progress. */
struct frame {
	struct tls_key key;
	u64 buffer;
	u64 count;
	u64 length_pointer;
	u64 stack_pointer;
	u64 time;
	u64 carried; /* bytes that calls which this one is built on have carried */
	u32 attachment; /* which of the probes at its place told of it */
	u32 epoch;	/* settings.epoch when it began */
	u8 call;	/* enum tls_call */
	u8 left;	/* it was told that this call was left */
	u8 early;	/* a call for early data, or one that such a call is built on */
	u8 padding[5];
};

/* The cookie of a probe: the call, and the number of its attachment, which tells apart the probes that are at one place. */
#define CALL_OF(cookie) ((u32)((cookie) & 0xff))
#define ATTACHMENT_OF(cookie) ((u32)((cookie) >> 8))

/* TLS calls nest where a library builds one function on another or a BIO is itself a TLS stream. */
#define FRAMES_MAX 4
struct frames {
	u32 depth;
	u32 padding;
	struct frame frame[FRAMES_MAX];
};

/* Threads inside a TLS call. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 32768);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, u64);
	__type(value, struct frames);
} frames SEC(".maps");

/* A frame does not fit twice on the 512 bytes of a program's stack. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct frames);
} no_frames SEC(".maps");

/* A system call on a TCP socket in progress. */
struct call {
	u64 sock;
	struct socket_facts facts;
	u64 buffer; /* or the struct iovec array, or the struct mmsghdr array */
	u64 count;  /* bytes or elements */
	u64 time;
	u32 number;
	u8 shape;   /* enum call_shape */
	u8 counted; /* among the stream's active calls */
	u8 padding[2];
};

/* Where a call's bytes are. */
enum call_shape {
	SHAPE_BUFFER = 0,
	SHAPE_VECTOR,	  /* struct iovec */
	SHAPE_MESSAGES,	  /* struct mmsghdr: rare on TCP, so their bytes are counted, not copied */
	SHAPE_UNREADABLE, /* nowhere that we can read, or not at their place in the stream */
};

/* Threads inside such a call; servers keep one blocked per connection. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, u64);
	__type(value, struct call);
} calls SEC(".maps");

/* The ciphertext tag: 24 bytes of a TLS record that a library wrote, until the process sends them. */
#define TAG_LENGTH 24
struct tag {
	u32 tgid;
	u8 bytes[TAG_LENGTH];
};

/* LRU: a tag that is never sent (a failed connection) is no loss, and an early one is sent within microseconds. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct tag);
	__type(value, struct tls_key);
} tags SEC(".maps");

#endif
