// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/* Departures: processes that leave the cgroup in which they were started, and with it what hooks of that cgroup do for them. A service
 * manager or a container runtime moves what it starts (systemd-run --scope, su under pam_systemd, runc), and root may move itself.
 *
 * The workload is known process by process, from the first on: forks join. Who is no longer in the cgroup or below is told of, and, where
 * the hooks of all cgroups are attached, too, can call nobody. */
#include "kernel.h"
#include "departures.h"

#define ECONNREFUSED 111

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
struct kernfs_node {
	u64 id;
};
struct cgroup;
struct cgroup_subsys_state {
	struct cgroup *cgroup;
	struct cgroup_subsys_state *parent;
};
struct cgroup_root {
	int hierarchy_id;
};
struct cgroup {
	struct cgroup_subsys_state self;
	struct kernfs_node *kn;
	struct cgroup_root *root;
};
struct css_set {
	struct cgroup *dfl_cgrp;
};
struct task_struct___departures {
	struct css_set *cgroups;
	char comm[16];
};
#pragma clang attribute pop

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct departures_settings);
} settings SEC(".maps");

/* Process -> enum whereabouts. As many as of a capture's process tree; a build has hundreds at a time. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, u32);
	__type(value, u8);
} members SEC(".maps");

/* 64 KiB are 2,000 departures between two looks of a reader that is woken for each. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 64 << 10);
} news SEC(".maps");

/* Departures that found no room in `news`, and processes that found none in `members`. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u64);
} unknown SEC(".maps");

/* A cgroup that lies deeper below the workload's counts as outside: nobody nests so deep. */
#define DEPTH_MAX 32

static __always_inline void count_unknown(void)
{
	u32 zero = 0;
	u64 *count = bpf_map_lookup_elem(&unknown, &zero);
	if (count)
		__sync_fetch_and_add(count, 1);
}

/* Whether a cgroup is the workload's or lies below it. */
static __noinline int is_inside(struct cgroup *cgroup)
{
	u32 zero = 0;
	struct departures_settings *set = bpf_map_lookup_elem(&settings, &zero);
	if (!set)
		return 0;
	for (int level = 0; level < DEPTH_MAX; level++) {
		if (BPF_CORE_READ(cgroup, kn, id) == set->cgroup)
			return 1;
		struct cgroup_subsys_state *parent = BPF_CORE_READ(cgroup, self.parent);
		if (!parent)
			return 0;
		cgroup = BPF_CORE_READ(parent, cgroup);
	}
	return 0;
}

static __always_inline void tell(struct task_struct *task, u32 tgid)
{
	struct departure_event *event = bpf_ringbuf_reserve(&news, sizeof(*event), 0);
	if (!event) {
		count_unknown();
		return;
	}
	event->started = BPF_CORE_READ(task, group_leader, start_boottime);
	event->tgid = tgid;
	struct task_struct___departures *named = (void *)task;
	BPF_CORE_READ_STR_INTO(&event->command, named, comm);
	bpf_ringbuf_submit(event, BPF_RB_FORCE_WAKEUP);
}

static __always_inline void join(struct task_struct *task, u32 tgid, u8 where)
{
	if (bpf_map_update_elem(&members, &tgid, &where, BPF_ANY))
		count_unknown();
	if (where == WHERE_DEPARTED)
		tell(task, tgid);
}

/* A fork is where its parent is; but it may be started in another cgroup (CLONE_INTO_CGROUP). */
SEC("raw_tp/sched_process_fork")
int departures_fork(struct bpf_raw_tracepoint_args *ctx)
{
	struct task_struct *parent = (void *)ctx->args[0], *child = (void *)ctx->args[1];
	u32 parent_tgid = BPF_CORE_READ(parent, tgid), tgid = BPF_CORE_READ(child, tgid);
	u8 *where = tgid == parent_tgid ? 0 : bpf_map_lookup_elem(&members, &parent_tgid);
	if (!where)
		return 0;
	struct task_struct___departures *placed = (void *)child;
	join(child, tgid, is_inside(BPF_CORE_READ(placed, cgroups, dfl_cgrp)) ? WHERE_INSIDE : WHERE_DEPARTED);
	return 0;
}

/* A process was moved. Hierarchy 0 is that of cgroup v2; moves in others are none of ours. */
SEC("raw_tp/cgroup_attach_task")
int departures_move(struct bpf_raw_tracepoint_args *ctx)
{
	struct cgroup *to = (void *)ctx->args[0];
	struct task_struct *task = (void *)ctx->args[2];
	u32 tgid = BPF_CORE_READ(task, tgid);
	u8 *where = bpf_map_lookup_elem(&members, &tgid);
	if (!where || BPF_CORE_READ(to, root, hierarchy_id))
		return 0;
	u8 now = is_inside(to) ? WHERE_INSIDE : WHERE_DEPARTED;
	if (now != *where)
		join(task, tgid, now);
	return 0;
}

SEC("raw_tp/sched_process_exit")
int departures_exit(struct bpf_raw_tracepoint_args *ctx)
{
	struct task_struct *task = (void *)ctx->args[0];
	u32 tgid = bpf_get_current_pid_tgid() >> 32;
	if (!BPF_CORE_READ(task, signal, live.counter)) /* the last thread */
		bpf_map_delete_elem(&members, &tgid);
	return 0;
}

/* --- Attached to all cgroups --- */

/* As in takeover.bpf.c: ECONNREFUSED where the kernel lets hooks say so, EPERM on older ones. */
static __always_inline int judge(void)
{
	u32 tgid = bpf_get_current_pid_tgid() >> 32;
	u8 *where = bpf_map_lookup_elem(&members, &tgid);
	if (!where || *where != WHERE_DEPARTED)
		return 1;
	if (bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_user_ringbuf_drain))
		bpf_set_retval(-ECONNREFUSED);
	return 0;
}

SEC("cgroup/connect4")
int departures_connect4(struct bpf_sock_addr *ctx)
{
	return judge();
}

SEC("cgroup/connect6")
int departures_connect6(struct bpf_sock_addr *ctx)
{
	return judge();
}

SEC("cgroup/sendmsg4")
int departures_sendmsg4(struct bpf_sock_addr *ctx)
{
	return judge();
}

SEC("cgroup/sendmsg6")
int departures_sendmsg6(struct bpf_sock_addr *ctx)
{
	return judge();
}

char LICENSE[] SEC("license") = "GPL"; /* some helpers are for GPL programs only */
